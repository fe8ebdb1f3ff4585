package scarcity_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/internal/scarcity"
	"qlive/vmstate"
)

func TestExplain(t *testing.T) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	host := vmstate.Errorf(vmstate.Host, "cannot do it: %w", unix.EMFILE)
	host.VM, host.Step = "vm1", "start"
	for name, tt := range map[string]struct {
		err  error
		kind vmstate.Kind
		says string
	}{
		"descriptors":          {host, vmstate.Exhausted, fmt.Sprintf("all %d descriptors", l.Cur)},
		"a path's":             {&os.PathError{Op: "open", Path: "/x", Err: unix.EMFILE}, vmstate.Exhausted, "/x: too many open files: this daemon"},
		"the host's":           {fmt.Errorf("cannot: %w", unix.ENFILE), vmstate.Exhausted, "fs.file-max"},
		"memory":               {vmstate.Errorf(vmstate.Host, "cannot map: %w", unix.ENOMEM), vmstate.Exhausted, "MiB of memory"},
		"processes":            {vmstate.Errorf(vmstate.Exhausted, "cannot run: %w", unix.EAGAIN), vmstate.Exhausted, "the host "},
		"again, in other ways": {vmstate.Errorf(vmstate.Host, "cannot lock: %w", unix.EAGAIN), vmstate.Host, ""},
		"another":              {vmstate.Errorf(vmstate.Denied, "cannot: %w", unix.EPERM), vmstate.Denied, ""},
	} {
		got := scarcity.Explain(tt.err)
		if vmstate.KindOf(got) != tt.kind || !strings.Contains(got.Error(), tt.says) || !errors.Is(got, errors.Unwrap(tt.err)) {
			t.Errorf("%s: %v (%s)", name, got, vmstate.KindOf(got))
		}
		if tt.says == "" && !errors.Is(got, tt.err) {
			t.Errorf("%s is another error now: %v", name, got)
		}
		if again := scarcity.Explain(got); again.Error() != got.Error() {
			t.Errorf("%s, explained twice: %v", name, again)
		}
	}
	pool := vmstate.Errorf(vmstate.Exhausted, "cannot reserve 128 huge pages: %w", unix.ENOMEM).With("sysctl vm.nr_hugepages=128")
	if got := vmstate.ProblemOf(scarcity.Explain(pool)); got.Remedy != pool.Remedy || got.Detail != pool.Detail {
		t.Errorf("who knows better what is scarce is not heard: %+v", got)
	}
	if scarcity.Explain(nil) != nil {
		t.Error("nil is an error")
	}
	var e *vmstate.Error
	if !errors.As(scarcity.Explain(host), &e) || e.VM != "vm1" || e.Step != "start" || e.Remedy == "" {
		t.Errorf("%+v", e)
	}
}

func TestBeforehand(t *testing.T) {
	if err := scarcity.Descriptors("do it", 1); err != nil {
		t.Error(err)
	}
	if err := scarcity.Descriptors("do it", 1<<40); vmstate.KindOf(err) != vmstate.Exhausted || !strings.Contains(err.Error(), "cannot do it: this daemon has ") {
		t.Error(err)
	}
	if err := scarcity.Memory("do it", 1); err != nil {
		t.Error(err)
	}
	if err := scarcity.Memory("do it", 1<<60); vmstate.KindOf(err) != vmstate.Exhausted || !strings.Contains(err.Error(), "1099511627776 MiB") {
		t.Error(err)
	}
}
