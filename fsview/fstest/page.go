package fstest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// CheckDoc compares the tree with the page that describes it: each file that the page names must exist, for
// every VM, region and migration there is, and each file of the tree must be on the page.
func CheckDoc(t *testing.T, tree Target, page string) {
	t.Helper()
	documented := docPaths(page)
	if len(documented) < 20 {
		t.Fatalf("cannot find the files in the page: %q", documented)
	}
	missing := make(map[string]bool)
	for _, path := range documented {
		missing[path] = true
	}
	err := filepath.WalkDir(tree.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == tree.Dir {
			return err
		}
		name, err := filepath.Rel(tree.Dir, path)
		if err != nil {
			return err
		}
		general := generalise(name)
		if entry.IsDir() {
			general += "/"
			if err := checkChildren(tree, name, general, documented); err != nil {
				t.Error(err)
			}
		}
		if !slices.Contains(documented, general) {
			t.Errorf("%s is in the tree, but %s is not on the page", name, general)
		}
		delete(missing, general)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range missing {
		t.Errorf("%s is on the page, but not in the tree", path)
	}
}

// checkChildren makes sure that the folder name has all that the page gives to such folders.
func checkChildren(tree Target, name, general string, documented []string) error {
	for _, path := range documented {
		rest, below := strings.CutPrefix(path, general)
		if !below || rest == "" || strings.Contains(strings.TrimSuffix(rest, "/"), "/") || strings.ToUpper(rest) == rest {
			continue
		}
		if _, err := os.Lstat(tree.path(name, rest)); err != nil {
			return fmt.Errorf("%s is on the page: %w", path, err)
		}
	}
	return nil
}

// docPaths are the paths in the first column of the page's tables about files.
func docPaths(page string) []string {
	var all []string
	quoted := regexp.MustCompile("`([^`]+)`")
	inTable := false
	for line := range strings.Lines(page) {
		switch {
		case strings.HasPrefix(line, "| What |"):
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable:
			first := strings.SplitN(line, "|", 3)[1]
			for _, m := range quoted.FindAllStringSubmatch(first, -1) {
				all = append(all, m[1])
			}
		}
	}
	return all
}

// generalise puts the page's words in place of the names in a path.
func generalise(path string) string {
	parts := strings.Split(path, "/")
	root := []string{"abi", "version", "health", "events"}
	switch {
	case parts[0] == "migrations":
		if len(parts) > 1 {
			parts[1] = "ID"
		}
	case !slices.Contains(root, parts[0]):
		parts[0] = "VM"
		if len(parts) > 2 && parts[1] == "regions" {
			parts[2] = "REGION"
		}
	}
	return strings.Join(parts, "/")
}
