package vmstate

import (
	"fmt"
	"slices"
)

// Role is what a caller may do. A higher one may do all that a lower one may.
type Role int

// The roles, the least first: what nobody has thought of is refused.
const (
	RoleNone    Role = iota // nothing: the caller is turned away
	RoleRead                // look
	RoleOperate             // act on the VMs that there are
	RoleAdmin               // say what is run as root, and end VMs for good
)

// Roles are all roles, the least first.
func Roles() []Role { return []Role{RoleNone, RoleRead, RoleOperate, RoleAdmin} }

// String is the role's name.
func (r Role) String() string {
	switch r {
	case RoleRead:
		return "read"
	case RoleOperate:
		return "operate"
	case RoleAdmin:
		return "admin"
	}
	return "none"
}

// UnmarshalText reads a role's name, as it stands in the configuration.
func (r *Role) UnmarshalText(text []byte) error {
	for _, role := range Roles() {
		if string(text) == role.String() {
			*r = role
			return nil
		}
	}
	return fmt.Errorf("cannot take %.40q for a role: the roles are none, read, operate and admin", text)
}

// Trust says which role each user of the host has. It is the one rule for both faces, the socket and the tree.
type Trust struct {
	UID    uint32 // the daemon's own user
	Group  int    // number of the group whose members operate VMs; none if it is not positive
	Others Role   // everybody else: RoleNone, or RoleRead where the configuration opens it to them
}

// Role is that of a user who is in the groups, the first one included.
func (t Trust) Role(uid uint32, groups []uint32) Role {
	switch {
	case uid == 0 || uid == t.UID:
		return RoleAdmin
	case t.Group > 0 && slices.Contains(groups, uint32(t.Group)):
		return RoleOperate
	}
	return min(t.Others, RoleRead)
}

// Lacking is the error for a caller who has one role and asks for what needs another. What is the thing asked for, as it follows "cannot".
func Lacking(what string, has, needs Role) *Error {
	e := Errorf(Denied, "cannot %s with the role %s: it needs the role %s", what, has, needs)
	switch needs {
	case RoleAdmin:
		return e.With("use sudo: what decides which programs run as root, or ends a VM for good, is for root alone")
	case RoleOperate:
		return e.With("use sudo, or let an administrator add you to the group that the socket belongs to, and log in again")
	}
	return e.With("use sudo, or ask an administrator to add you to the group that the socket belongs to, or to set `others: read` in the configuration")
}
