package qemu

import (
	"errors"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"qlive/vmstate"
)

// User is whom a QEMU runs as. The numbers are looked up once in a guest's life, so that both QEMUs of a handoff have the same. A nil User stands
// for whom this process runs as.
type User struct {
	Name   string   `json:"name"`
	Home   string   `json:"home"`
	UID    int      `json:"uid"`
	GID    int      `json:"gid"`
	Groups []uint32 `json:"groups"` // beside the first; those that have /dev/kvm among them
}

// kvmGroup is whose members may open /dev/kvm (udev's rules in systemd).
const kvmGroup = "kvm"

// LookUpUser finds a user by name or number, with the groups it is in; where there is a group kvm, that too. The user 0, and an empty name, give nil.
// Errors are of Kind Invalid.
func LookUpUser(name string) (*User, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // no user is this process' own
	}
	found, err := user.Lookup(name)
	if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
		found, err = user.LookupId(name)
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot run QEMU as the user %q: %w", name, err).
			With("make the user (useradd --system --no-create-home --groups kvm " + name + "), or name another one")
	}
	u := &User{Name: found.Username, Home: found.HomeDir}
	ids, err := found.GroupIds()
	if err == nil {
		u.UID, err = strconv.Atoi(found.Uid)
	}
	if err == nil {
		u.GID, err = strconv.Atoi(found.Gid)
	}
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot find out the groups of the user %q: %w", name, err)
	}
	if u.UID == 0 {
		return nil, nil //nolint:nilnil // as above
	}
	if kvm, err := user.LookupGroup(kvmGroup); err == nil {
		ids = append(ids, kvm.Gid)
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil && int(n) != u.GID {
			u.Groups = append(u.Groups, uint32(n))
		}
	}
	slices.Sort(u.Groups)
	u.Groups = slices.Compact(u.Groups)
	return u, nil
}

func (u *User) credential() *syscall.Credential {
	if u == nil {
		return nil
	}
	return &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID), Groups: u.Groups}
}

// environment is env as a login of the user would have it.
func (u *User) environment(env []string) []string {
	if u == nil {
		return env
	}
	env = slices.DeleteFunc(env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"HOME", "USER", "LOGNAME"}, name) || strings.HasPrefix(name, "XDG_")
	})
	return append(env, "HOME="+u.Home, "USER="+u.Name, "LOGNAME="+u.Name)
}

// own gives the user a file that has just been made for its QEMU.
func (u *User) own(path string) error {
	if u == nil {
		return nil
	}
	return os.Lchown(path, u.UID, u.GID)
}

// Give is own for a file of a handoff's, made outside of this package.
func (u *User) Give(path string) error { return u.own(path) }

// Own gives the user files that its QEMU is to open, guest RAM above all: nobody else but root can open them then. Errors are of Kind Host.
func (u *User) Own(files []*os.File) error {
	if u == nil {
		return nil
	}
	for _, f := range files {
		err := f.Chown(u.UID, u.GID)
		if err == nil {
			err = f.Chmod(0o600)
		}
		if err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot give %s to the user %s: %w", f.Name(), u.Name, cause(err))
		}
	}
	return nil
}
