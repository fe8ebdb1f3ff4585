package fsview

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
)

// fileName is the name of the file or folder that stands for something called name: name itself where it
// consists of letters, digits and any of . _ - : @ + =, and else percent-encoded as in a URL, so that it can be
// pasted into one. Different names stay different.
func fileName(name string) string {
	switch name {
	case "":
		return "%" // decodes to nothing else
	case ".":
		return "%2E"
	case "..":
		return "%2E%2E"
	}
	if strings.IndexFunc(name, func(r rune) bool { return r > 0x7f || !plain(byte(r)) }) < 0 {
		return name
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		if c := name[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-:@+=", c) >= 0
}

// inode is the inode number of the file at path: the same in every life of the daemon, never one of the
// numbers that the kernel (0, 1, ^0) or go-fuse (from 1<<63) keep for themselves.
func inode(path string) uint64 {
	sum := sha256.Sum256([]byte(path))
	return binary.LittleEndian.Uint64(sum[:])>>2 | 1<<62
}
