package memory

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain runs the tests in a child, alone among tests that take the same lock, and puts the host's huge pages back
// whatever becomes of it: a test that leaks, panics or runs out of time must not keep them. The child's mounts are
// its own and end with it.
func TestMain(m *testing.M) {
	const inChild = "QLIVE_TEST_CHILD"
	if os.Getenv(inChild) != "" {
		os.Exit(m.Run())
	}
	code, err := runChild(inChild + "=1")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run the tests:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func runChild(env string) (code int, err error) {
	lock, err := os.OpenFile("/tmp/qlive-hugepages.lock", os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return 0, err
	}
	restore, err := keepHost()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, restore()) }()
	interrupted := make(chan os.Signal, 1) // by the terminal, which tells the child too
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), env)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w (these tests need root)", err)
	}
	go func() {
		if sig, ok := <-interrupted; ok {
			cmd.Process.Signal(sig)
		}
	}()
	err = cmd.Wait()
	signal.Stop(interrupted)
	close(interrupted)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// keepHost notes the settings that tests change, and returns what puts them back.
func keepHost() (restore func() error, err error) {
	files, err := filepath.Glob("/sys/kernel/mm/hugepages/*/nr_hugepages")
	if err != nil {
		return nil, err
	}
	were := map[string]string{}
	for _, file := range append(files, shmemEnabled) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		were[file] = strings.TrimSpace(string(text))
		if file == shmemEnabled {
			were[file] = chosen(were[file])
		}
	}
	return func() error {
		var errs []error
		for file, was := range were {
			errs = append(errs, os.WriteFile(file, []byte(was), 0))
		}
		return errors.Join(errs...)
	}, nil
}

const shmemEnabled = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

// chosen is the word in brackets.
func chosen(text string) string {
	_, word, _ := strings.Cut(text, "[")
	word, _, _ = strings.Cut(word, "]")
	return word
}
