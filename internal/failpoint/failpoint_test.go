package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/internal/failpoint"
)

// child, in the environment, makes the test binary reach the point "p" and report.
const child = "FAILPOINT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(child) != "" {
		set, err := failpoint.FromEnvironment()
		if err == nil {
			err = set.Hit(context.Background(), "p")
		}
		fmt.Println("survived:", err)
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds what must happen.
const patience = 20 * time.Second

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func newSet(t *testing.T, spec string) *failpoint.Set {
	t.Helper()
	s, err := failpoint.New(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTerms(t *testing.T) {
	tests := map[string]struct {
		spec string
		want []string // of the hits of p, in order
	}{
		"nothing armed":     {"", []string{"", ""}},
		"another armed":     {"q=error(x)", []string{"", ""}},
		"off":               {"p=off", []string{"", ""}},
		"for ever":          {"p=error(no space)", []string{"no space", "no space", "no space"}},
		"once":              {"p=1*error(x)", []string{"x", "", ""}},
		"third time":        {"p=2*off->1*error(x)", []string{"", "", "x", ""}},
		"one after another": {"p=1*error(a)->2*error(b)->error(c)", []string{"a", "b", "b", "c", "c"}},
		"odd texts":         {"p=1*error(a;b->c=(d)*e)->error()", []string{"a;b->c=(d)*e", ""}},
		"blanks, empty":     {" ; p = 1 * error(x) -> off ;", []string{"x", ""}},
		"delay":             {"p=1*delay(1ms)->error(x)", []string{"", "x"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSet(t, tt.spec)
			for i, want := range tt.want {
				err := s.Hit(t.Context(), "p")
				failure, failed := errors.AsType[*failpoint.Error](err)
				if (err != nil) != failed || failed && (failure.Name != "p" || failure.Text != want) || !failed && want != "" {
					t.Errorf("hit %d: got %v, want %q", i, err, want)
				}
			}
			if got := s.Hits("p"); got != len(tt.want) {
				t.Errorf("%d hits counted, want %d", got, len(tt.want))
			}
		})
	}
}

func TestBadSpecifications(t *testing.T) {
	for spec, says := range map[string]string{
		"p":                     "not NAME=TERM",
		"=off":                  "not NAME=TERM",
		"p=":                    "unknown action",
		"p=fail":                `unknown action "fail"`,
		"p=func":                `unknown action "func"`,
		"p=off;p=off":           "twice",
		"p=error":               "needs an argument",
		"p=error(x":             "closing parenthesis",
		"p=error(x)y":           "closing parenthesis",
		"p=off(1)":              "takes no argument",
		"p=delay(soon)":         "invalid duration",
		"p=delay(-1s)":          "negative",
		"p=exit(256)":           "no exit code",
		"p=exit(x)":             "invalid syntax",
		"p=0*off":               "no count",
		"p=-1*off":              "no count",
		"p=x*off":               "no count",
		"p=1*":                  "unknown action",
		"p=1*off->":             "unknown action",
		"p=off->kill":           "can never happen",
		"p=99999999999999999*x": "unknown action",
	} {
		if _, err := failpoint.New(spec); err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: got %v, want %q", spec, err, says)
		}
	}
	if err := newSet(t, "").Arm("p", "nonsense"); err == nil {
		t.Error("Arm took nonsense")
	}
}

func TestNilSet(t *testing.T) {
	var s *failpoint.Set
	if err := s.Hit(t.Context(), "p"); err != nil {
		t.Error(err)
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Setenv(failpoint.Variable, "")
	if s, err := failpoint.FromEnvironment(); s != nil || err != nil {
		t.Errorf("nothing set: %v, %v", s, err)
	}
	t.Setenv(failpoint.Variable, "p=error(x)")
	s, err := failpoint.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Hit(t.Context(), "p"); err == nil || err.Error() != "failpoint p: x" {
		t.Errorf("got %v", err)
	}
	t.Setenv(failpoint.Variable, "p=x")
	if _, err := failpoint.FromEnvironment(); err == nil || !strings.Contains(err.Error(), failpoint.Variable) {
		t.Errorf("got %v", err)
	}
}

func TestBlock(t *testing.T) {
	s := newSet(t, "p=2*block")
	hit := func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- s.Hit(within(t, patience), "p") }()
		return done
	}
	s.Release("p") // opens nothing for those who come later
	for n := 1; n <= 2; n++ {
		blocked := hit()
		if err := s.Await(within(t, patience), "p", n); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-blocked:
			t.Fatalf("not blocked: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		s.Release("p")
		if err := <-blocked; err != nil {
			t.Error(err)
		}
	}
	if err := <-hit(); err != nil {
		t.Errorf("the terms are used up, but: %v", err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	reason := errors.New("enough")
	for _, spec := range []string{"p=block", "p=delay(1h)"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Millisecond, func() { cancel(reason) })
		if err := newSet(t, spec).Hit(ctx, "p"); !errors.Is(err, reason) {
			t.Errorf("%s: got %v", spec, err)
		}
	}
	if err := newSet(t, "").Await(within(t, 5*time.Millisecond), "p", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Await: got %v", err)
	}
}

func TestArmedByTests(t *testing.T) {
	s := newSet(t, "p=error(x)")
	refused := errors.New("refused")
	s.Func("p", func() error { return refused })
	if err := s.Hit(t.Context(), "p"); !errors.Is(err, refused) {
		t.Errorf("a function: %v", err)
	}
	s.Func("p", nil)
	if err := s.Hit(t.Context(), "p"); err != nil {
		t.Errorf("no function: %v", err)
	}
	if err := s.Arm("p", "1*error(y)"); err != nil {
		t.Fatal(err)
	}
	if err := s.Hit(t.Context(), "p"); err == nil || err.Error() != "failpoint p: y" {
		t.Errorf("armed: %v", err)
	}
	for _, name := range []string{"b", "a", "b"} {
		if err := s.Hit(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if got, want := s.Reached(), []string{"a", "b", "p"}; !slices.Equal(got, want) {
		t.Errorf("reached %v, want %v", got, want)
	}
	if s.Hits("a") != 1 || s.Hits("b") != 2 || s.Hits("p") != 3 || s.Hits("never") != 0 {
		t.Error("hits are counted wrongly")
	}
}

func TestPanic(t *testing.T) {
	defer func() {
		if got := recover(); got != "failpoint p" {
			t.Errorf("recovered %v", got)
		}
	}()
	_ = newSet(t, "p=panic").Hit(t.Context(), "p")
	t.Error("no panic")
}

// start runs the test binary as a process that reaches the point "p".
func start(t *testing.T, spec string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	var out strings.Builder
	cmd := exec.CommandContext(within(t, patience), os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1", failpoint.Variable+"="+spec)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

func TestDeath(t *testing.T) {
	tests := map[string]struct {
		spec string
		want string // how the process ended
	}{
		"kill":             {"p=kill", "signal: killed"},
		"exit":             {"p=exit(7)", "exit status 7"},
		"exit quietly":     {"p=exit(0)", ""},
		"nothing":          {"p=off", "survived"},
		"kill, but later":  {"p=1*off->kill", "survived"},
		"panic, unhandled": {"p=panic", "exit status 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cmd, out := start(t, tt.spec)
			got := ""
			if err := cmd.Wait(); err != nil {
				got = err.Error()
			} else if strings.HasPrefix(out.String(), "survived: <nil>") {
				got = "survived"
			}
			if got != tt.want {
				t.Errorf("ended with %q (%s), want %q", got, out, tt.want)
			}
		})
	}
}

func TestStop(t *testing.T) {
	cmd, out := start(t, "p=stop")
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	if !status.Stopped() || status.StopSignal() != syscall.SIGSTOP {
		t.Fatalf("not stopped: %#x", status)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(out.String(), "survived: <nil>") {
		t.Errorf("after SIGCONT: %v, %s", err, out)
	}
}

func FuzzNew(f *testing.F) {
	for _, seed := range []string{
		"p=off", "p=1*error(x)->delay(1ms);q=2*off->kill", "p=1*exit(3)->1*panic->1*stop->block", "p=error(a;b->c=(d))", "=;->(*)", "p=)(",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		s, err := failpoint.New(spec)
		if (s == nil) == (err == nil) {
			t.Errorf("%q: %v, %v", spec, s, err)
		}
	})
}
