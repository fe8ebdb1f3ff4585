package guest

import (
	"bytes"
	"fmt"
)

// A file of an initramfs. Folders come before what is in them.
type file struct {
	name string // without a leading slash
	mode uint32 // type and permissions, as in struct stat
	data []byte
	rdev [2]uint32 // of a device: major and minor
}

// File types of struct stat.
const (
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeChar    = 0o020000
)

// cpio writes an archive in the "newc" format, the one that the kernel unpacks. Times are zero and
// inodes are numbered, so that equal files make equal archives.
func cpio(files []file) []byte {
	var b bytes.Buffer
	for i, f := range files {
		appendEntry(&b, i+1, f)
	}
	appendEntry(&b, 0, file{name: "TRAILER!!!"})
	return b.Bytes()
}

func appendEntry(b *bytes.Buffer, inode int, f file) {
	links := 1
	if f.mode&modeDir != 0 && f.mode&modeRegular == 0 {
		links = 2
	}
	// magic, inode, mode, uid, gid, nlink, mtime, size, device major and minor, rdev major and minor,
	// length of the name with its zero byte, checksum (none)
	fmt.Fprintf(b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, f.mode, 0, 0, links, 0, len(f.data), 0, 0, f.rdev[0], f.rdev[1], len(f.name)+1, 0, f.name)
	pad(b)
	b.Write(f.data)
	pad(b)
}

// pad fills up to a multiple of four bytes.
func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
