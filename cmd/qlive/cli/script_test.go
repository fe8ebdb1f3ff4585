package cli_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"qlive/cmd/qlive/cli"
	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"qlive": func() { os.Exit(command()) }})
}

// command is what main does.
func command() int {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	env := cli.Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Dir: dir, Version: "test"}
	env.Root = os.Getenv("QLIVE_TEST_ROOT")
	if path, ok := os.LookupEnv("QLIVE_TEST_PATH"); ok {
		env.Getenv = func(name string) string {
			if name == "PATH" {
				return path
			}
			return os.Getenv(name)
		}
	}
	if os.Getenv("QLIVE_TEST_DAEMON") != "" {
		env.Daemon = func(_ context.Context, flags cli.DaemonFlags) error {
			fmt.Printf("%+v\n", flags)
			return nil
		}
	}
	return cli.Run(ctx, env, os.Args[1:])
}

// Each script has a daemon's API of its own, on $QLIVE_SOCKET, with a service in memory behind it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"service": service, "await": await, "exits": exits},
	})
}

// world is a daemon's API with a service in memory behind it.
type world struct {
	svc  *restapitest.Service
	dir  string
	stop func() error
}

// open serves svc on a socket.
func open(svc *restapitest.Service) (*world, error) {
	dir, err := os.MkdirTemp("", "qlive")
	if err != nil {
		return nil, err
	}
	w := &world{svc: svc, dir: dir}
	l, err := restapi.Listen(w.socket(), vmstate.Trust{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- restapi.Server{Handler: restapi.New(svc, restapi.Options{Version: "test", Now: restapitest.Now})}.Serve(ctx, l)
	}()
	w.stop = func() error {
		cancel()
		err := <-done
		svc.Close()
		return errors.Join(err, os.RemoveAll(dir))
	}
	return w, nil
}

func (w *world) socket() string { return filepath.Join(w.dir, "s") }

// newWorld serves the VMs until the test ends.
func newWorld(t *testing.T, vms ...vmstate.VM) *world {
	t.Helper()
	w, err := open(restapitest.New(vms...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// noLinger keeps a command that is built for finding races from waiting a second at its end.
const noLinger = "atexit_sleep_ms=0"

func setup(env *testscript.Env) error {
	w, err := open(restapitest.New(restapitest.VM("vm1")))
	if err != nil {
		return err
	}
	env.Defer(func() {
		if err := w.stop(); err != nil {
			env.T().Fatal(err)
		}
	})
	env.Setenv("QLIVE_SOCKET", w.socket())
	env.Setenv("TZ", "UTC")
	env.Setenv("GORACE", noLinger)
	env.Values["world"] = w
	return nil
}

// service changes what the API serves:
//
//	service run PHASE...       migrations go through these phases by themselves; or: full, undone
//	service step ID PHASE      a migration goes on
//	service refuse KIND        commands fail; ok ends that
//	service vm NAME STATUS     a VM is there in that status; none takes it away
//	service health ready|starting|degraded
func service(ts *testscript.TestScript, neg bool, args []string) {
	svc := ts.Value("world").(*world).svc
	switch args[0] {
	case "run":
		var phases []vmstate.Phase
		for _, p := range args[1:] {
			switch p {
			case "full":
				phases = append(phases, restapitest.Full()...)
			case "undone":
				phases = append(phases, restapitest.Undone()...)
			default:
				phases = append(phases, vmstate.Phase(p))
			}
		}
		svc.Run(time.Millisecond, phases...)
	case "step":
		svc.Step(args[1], vmstate.Phase(args[2]))
	case "refuse":
		if args[1] == "ok" {
			svc.Refuse(nil)
			return
		}
		svc.Refuse(&vmstate.Error{Kind: vmstate.Kind(args[1]), VM: "vm1", Detail: "cannot do that: it is a test", Remedy: "do another thing", Words: []string{"qemu: \x1b[31mno"}})
	case "vm":
		if args[2] == "none" {
			if err := svc.RemoveVM(context.Background(), args[1], restapi.RemoveKill); err != nil {
				ts.Fatalf("%v", err)
			}
			return
		}
		svc.SetVM(odd(args[1], vmstate.Status(args[2])))
	case "health":
		svc.SetHealth(map[string]vmstate.Health{"ready": {Ready: true}, "starting": {},
			"degraded": {Ready: true, Degraded: true, Problems: []vmstate.Problem{{Detail: "cannot mount the tree"}}}}[args[1]])
	default:
		ts.Fatalf("no such service command: %s", args[0])
	}
}

// odd is a VM with everything that can be said of one.
func odd(name string, status vmstate.Status) vmstate.VM {
	vm := restapitest.VM(name)
	vm.Status = status
	if status == vmstate.Stopped {
		vm.PID = 0
	}
	if status == vmstate.Broken {
		vm.Error = vmstate.ProblemOf(vmstate.Errorf(vmstate.Lost, "cannot say who runs VM %s", name).With("ask a person"))
	}
	if status == vmstate.Paused {
		vm.QEMU.Outdated = true
		vm.Warnings = []string{"guest RAM has small pages"}
	}
	vm.Argv = []vmstate.Arg{
		{Value: "/usr/bin/qemu-system-x86_64"},
		{Value: "-name"}, {Value: "it's a guest"},
		{Value: "-machine"}, {Value: "pc-q35-7.2", Was: "q35", Why: "the machine type of the first start"},
		{Was: "-daemonize", Why: "qlive watches its QEMUs", Dropped: true},
		{Was: "-pidfile", Why: "two QEMUs cannot share it", Dropped: true}, {Was: "/run/x y", Why: "two QEMUs cannot share it", Dropped: true},
		{Value: "-S", Why: "qlive looks first"},
		{Value: "-append"}, {Value: "console=ttyS0 quiet"}, {Value: ""},
		{Value: "-qmp", Why: "qlive's monitor"}, {Value: "unix:/run/q", Why: "qlive's monitor"},
	}
	return vm
}

// await waits until something is so: await phase ID PHASE, await typed TEXT, await streams N, await file NAME TEXT.
func await(ts *testscript.TestScript, neg bool, args []string) {
	svc := ts.Value("world").(*world).svc
	holds := func() string {
		switch args[0] {
		case "phase":
			m, _ := svc.Snapshot().Migration(args[1])
			return string(m.Phase)
		case "typed":
			return strconv.Quote(svc.Typed())
		case "streams":
			return strconv.Itoa(svc.Streams())
		case "file":
			text, err := os.ReadFile(ts.MkAbs(args[1])) // the one that writes it may not have begun
			if err == nil && strings.Contains(string(text), args[2]) {
				return args[2]
			}
			return "without it"
		}
		ts.Fatalf("cannot await %s", args[0])
		return ""
	}
	want := args[len(args)-1]
	for deadline := time.Now().Add(10 * time.Second); holds() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%v is %s, not %s", args[:len(args)-1], holds(), want)
		}
	}
}

// exits runs a command that is to end with a code: exits CODE COMMAND ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("%v ends with %d, want %s\nstdout: %s\nstderr: %s", args[1:], code, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}
