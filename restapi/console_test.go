package restapi_test

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
	"qlive/vmstate/logfile"
)

func TestConsole(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return path
	}
	vm := restapitest.VM("vm1")
	vm.ConsoleLog = []string{write("0", "one\xff\n"), write("1", "two\n"), filepath.Join(dir, "2")}
	vm.QEMULog = []string{write("log", "warning: no\n")}
	svc := restapitest.New(vm)
	s := start(t, svc, restapi.Options{})

	if got := s.do("GET", "/vms/vm1/console", "").want(200).body; got != "one\xff\ntwo\n" {
		t.Errorf("console %q", got)
	}
	for tail, want := range map[string]string{"0": "", "3": "wo\n", "4": "two\n", "5": "\ntwo\n", "99": "one\xff\ntwo\n"} {
		if got := s.do("GET", "/vms/vm1/console?tail="+tail, "").want(200).body; got != want {
			t.Errorf("the last %s bytes are %q", tail, got)
		}
	}
	if got := s.do("GET", "/vms/vm1/log", "").want(200).body; got != "warning: no\n" {
		t.Errorf("log %q", got)
	}
	s.do("POST", "/vms/vm1/console", "root\n\x00", "Content-Type: application/octet-stream").want(204)
	if got := svc.Typed(); got != "root\n\x00" {
		t.Errorf("typed %q", got)
	}

	resp, err := s.http.Get("http://qlive/vms/vm1/console?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	expect := func(want string) {
		t.Helper()
		line, err := lines.ReadString('\n')
		if err != nil || line != want {
			t.Fatalf("line %q, %v; want %q", line, err, want)
		}
	}
	expect("one\xff\n")
	expect("two\n")
	write("1", "two again\n")
	expect("two again\n")
	write("2", "three\n") // a file that was named before it was there
	expect("three\n")
	vm.ConsoleLog = append(vm.ConsoleLog, write("3", "four\n")) // a new generation
	svc.SetVM(vm)
	expect("four\n")
	write("2", "late\n") // the old QEMU's last words
	expect("late\n")
	write("3", "end\n")
	vm.Status = vmstate.Stopped
	svc.SetVM(vm)
	expect("end\n")
	if rest, err := io.ReadAll(lines); err != nil || len(rest) != 0 {
		t.Errorf("after the VM stopped: %q, %v", rest, err)
	}
}

func TestConsoleOfARemovedVM(t *testing.T) {
	vm := restapitest.VM("vm1")
	svc := restapitest.New(vm)
	s := start(t, svc, restapi.Options{})
	resp, err := s.http.Get("http://qlive/vms/vm1/console?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.do("DELETE", "/vms/vm1?force=true", "").want(204)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("after the VM went: %q, %v", rest, err)
	}
}

// A reader that rests, such as a pager, holds up only itself, and the server's end.
func TestConsoleReaderThatRests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0")
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 8<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	vm := restapitest.VM("vm1")
	vm.ConsoleLog = []string{path}
	s := start(t, restapitest.New(vm), restapi.Options{})
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://qlive/vms/vm1/console", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	s.do("GET", "/vms/vm1", "").want(200)
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != 8<<20 {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

// What is dropped of a text while nobody reads it is left out, not sent as zeros.
func TestConsoleThatIsTrimmed(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "console") // a tmpfs, as the run directory is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	vm := restapitest.VM("vm1")
	vm.ConsoleLog = []string{filepath.Join(dir, "g0"), filepath.Join(dir, "g1")}
	for i, path := range vm.ConsoleLog {
		if err := os.WriteFile(path, bytes.Repeat([]byte{byte('a' + i)}, 300<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, restapitest.New(vm), restapi.Options{})
	if err := logfile.Trim(vm.ConsoleLog, 200<<10); err != nil {
		t.Fatal(err)
	}
	text := s.do("GET", "/vms/vm1/console", "").want(200).body
	if len(text) < 200<<10 || len(text) > 264<<10 || strings.Trim(text, "b") != "" {
		t.Errorf("%d bytes are left, from %q to %q", len(text), text[:1], text[len(text)-1:])
	}
	if tail := s.do("GET", "/vms/vm1/console?tail=1000", "").want(200).body; tail != strings.Repeat("b", 1000) {
		t.Errorf("the tail has %d bytes", len(tail))
	}
}
