package qmp

import "fmt"

// Version is QEMU's own, as its monitor states it.
type Version struct {
	Major, Minor, Micro int
	Package             string // the distribution's, such as "Debian 1:7.2+dfsg-7+deb12u18"; may be empty
}

// String is the number alone: "10.0.13".
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// AtLeast tells whether v is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

func (i versionInfo) version() Version {
	return Version{Major: i.QEMU.Major, Minor: i.QEMU.Minor, Micro: i.QEMU.Micro, Package: i.Package}
}
