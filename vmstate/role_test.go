package vmstate_test

import (
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

func TestTrust(t *testing.T) {
	closed := vmstate.Trust{UID: 500, Group: 77}
	open := vmstate.Trust{UID: 500, Group: 77, Others: vmstate.RoleRead}
	for _, c := range []struct {
		name   string
		trust  vmstate.Trust
		uid    uint32
		groups []uint32
		want   vmstate.Role
	}{
		{"root", closed, 0, nil, vmstate.RoleAdmin},
		{"the daemon's user", closed, 500, nil, vmstate.RoleAdmin},
		{"a member", closed, 1000, []uint32{1000, 77}, vmstate.RoleOperate},
		{"another, closed", closed, 1000, []uint32{1000, 0}, vmstate.RoleNone},
		{"another, opened", open, 1000, []uint32{1000, 0}, vmstate.RoleRead},
		{"root's group is no group of operators", vmstate.Trust{UID: 500}, 1000, []uint32{0}, vmstate.RoleNone},
		{"no group", vmstate.Trust{UID: 500, Group: -1}, 1000, []uint32{^uint32(0)}, vmstate.RoleNone},
		{"others are never more than readers", vmstate.Trust{Others: vmstate.RoleAdmin}, 1000, nil, vmstate.RoleRead},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.trust.Role(c.uid, c.groups); got != c.want {
				t.Errorf("role %s, want %s", got, c.want)
			}
		})
	}
}

// Whoever is neither root, nor the daemon, nor a member is what the others are, whatever numbers come together.
func TestTrustOfStrangers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trust := vmstate.Trust{UID: rapid.Uint32().Draw(t, "own"), Group: rapid.IntRange(-1, 1<<32-1).Draw(t, "group"), Others: vmstate.RoleRead}
		uid := rapid.Uint32Min(1).Draw(t, "uid")
		groups := rapid.SliceOf(rapid.Uint32()).Draw(t, "groups")
		member := false
		for _, g := range groups {
			member = member || trust.Group > 0 && int(g) == trust.Group
		}
		if got := trust.Role(uid, groups); uid != trust.UID && !member && got != vmstate.RoleRead {
			t.Fatalf("%+v gives %d of %v the role %s", trust, uid, groups, got)
		}
	})
}

func TestRoleNames(t *testing.T) {
	for _, role := range vmstate.Roles() {
		var again vmstate.Role
		if err := again.UnmarshalText([]byte(role.String())); err != nil || again != role {
			t.Errorf("%s reads as %s, %v", role, again, err)
		}
	}
	var r vmstate.Role
	for _, wrong := range []string{"", "root", "Admin", "read "} {
		if err := r.UnmarshalText([]byte(wrong)); err == nil {
			t.Errorf("%q is taken for a role", wrong)
		}
	}
}

func TestLacking(t *testing.T) {
	for _, needs := range vmstate.Roles()[1:] {
		e := vmstate.Lacking("start VMs", needs-1, needs)
		if e.Kind != vmstate.Denied || e.Remedy == "" || e.Detail != "cannot start VMs with the role "+(needs-1).String()+": it needs the role "+needs.String() {
			t.Errorf("%+v", e)
		}
	}
}
