package restapi_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

var errStill = errors.New("still as before")

// However places are taken and given back: never more than there are, never more than one user may have, and what is there is given.
func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, perUser := rapid.IntRange(1, 5).Draw(t, "total"), rapid.IntRange(1, 3).Draw(t, "per user")
		p := restapi.NewPool(total, perUser)
		type place struct {
			user     string
			giveBack func()
		}
		var taken []place
		count := func(of func(place) bool) (n int) {
			for _, t := range taken {
				if of(t) {
					n++
				}
			}
			return n
		}
		admin := func(p place) bool { return p.user == "admin" }
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				user := rapid.SampledFrom([]string{"admin", "a", "b", "c"}).Draw(t, "user")
				admins := count(admin)
				room := len(taken)-admins < total && count(func(p place) bool { return p.user == user }) < perUser
				if user == "admin" {
					room = admins < total
				}
				giveBack, ok := p.Take(user, user == "admin")
				if ok != room {
					t.Fatalf("%s: place given: %v, room: %v, taken %v", user, ok, room, taken)
				}
				if ok {
					taken = append(taken, place{user, giveBack})
				}
			},
			"give back": func(t *rapid.T) {
				if len(taken) == 0 {
					t.Skip("nothing taken")
				}
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "which")
				taken[i].giveBack()
				taken[i].giveBack() // a second time does nothing
				taken = append(taken[:i:i], taken[i+1:]...)
			},
		})
	})
}

func TestLimitsCheck(t *testing.T) {
	if err := restapi.DefaultLimits().Check(); err != nil {
		t.Error(err)
	}
	err := restapi.Limits{IdleTime: -time.Second}.Check()
	if vmstate.KindOf(err) != vmstate.Invalid || !strings.Contains(err.Error(), "limits.idle_time") {
		t.Errorf("%v", err)
	}
}

// dial connects to the socket.
func (s *server) dial() net.Conn {
	s.t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a request by hand and reads the answer.
func ask(t *testing.T, c net.Conn, request string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// closes waits for the other side to close.
func closes(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open after 10 s")
	}
}

const getVMs = "GET /vms HTTP/1.1\r\nHost: qlive\r\n\r\n"

// One connection too many is told so, as a problem; what is far too much is closed; and a place that is given back is used again.
func TestConnections(t *testing.T) {
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{Limits: restapi.Limits{Connections: 2, HeaderTime: time.Minute}})
	var held []net.Conn
	for range 2 {
		c := s.dial()
		if resp, _ := ask(t, c, getVMs); resp.StatusCode != 200 {
			t.Fatalf("%s", resp.Status)
		}
		held = append(held, c)
	}
	resp, text := ask(t, s.dial(), getVMs)
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !resp.Close || !strings.Contains(text, "urn:qlive:problem:unavailable") {
		t.Errorf("one too many: %s, %v: %s", resp.Status, resp.Header, text)
	}
	for range 16 { // that say nothing, and so stay for as long as headers may take
		s.dial()
	}
	eventually(t, func() error {
		c := s.dial()
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return fmt.Errorf("far too many: %v, not closed", err)
		}
		return nil
	})
	held[0].Close()
	eventually(t, func() error {
		c, err := net.Dial("unix", s.socket)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := io.WriteString(c, getVMs); err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && resp.StatusCode != 200 {
			err = errors.New(resp.Status)
		}
		return err
	})
}

// Who sends slowly is cut off in time, whatever they send slowly, and keeps nobody else from being served.
func TestSlowClients(t *testing.T) {
	limits := restapi.Limits{HeaderTime: 100 * time.Millisecond, BodyTime: 200 * time.Millisecond, IdleTime: 300 * time.Millisecond}
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{Limits: limits})
	for _, c := range []struct{ name, at, drip string }{
		{"says nothing", "", ""},
		{"request line", "GET /vms", "x"},
		{"headers", "GET /vms HTTP/1.1\r\nHost: qlive\r\n", "X-A: b\r\n"},
		{"one header", "GET /vms HTTP/1.1\r\nHost: qlive\r\nX-A: ", "b"},
		{"body", "POST /migrations HTTP/1.1\r\nHost: qlive\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n", " "},
		{"chunks", "POST /vms/vm1/console HTTP/1.1\r\nHost: qlive\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"},
		{"next request", getVMs, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := s.dial()
			if _, err := io.WriteString(conn, c.at); err != nil {
				t.Fatal(err)
			}
			stop, dripped := make(chan struct{}), make(chan struct{})
			go func() { // until it is cut off
				defer close(dripped)
				for c.drip != "" {
					if _, err := io.WriteString(conn, c.drip); err != nil {
						return
					}
					select {
					case <-time.After(10 * time.Millisecond):
					case <-stop:
						return
					}
				}
			}()
			s.do("GET", "/vms", "").want(200)
			closes(t, conn)
			close(stop)
			<-dripped
		})
	}
}

// A request that waits is not one that sends slowly: the times are over once it is read.
func TestWaitOutlivesReadTime(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{Limits: restapi.Limits{HeaderTime: 50 * time.Millisecond, BodyTime: 50 * time.Millisecond, IdleTime: 50 * time.Millisecond}})
	svc.Run(100*time.Millisecond, restapitest.Full()...) // seven phases
	s.do("POST", "/migrations?wait=1m", `{"vm":"vm1"}`).want(200)
}

func TestLargeRequests(t *testing.T) {
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{Limits: restapi.Limits{BodyBytes: 1000, HeaderBytes: 4096}})
	s.do("POST", "/migrations", `{"vm":"vm1"}`+strings.Repeat(" ", 900)).want(202)
	s.do("POST", "/migrations", `{"vm":"vm1"}`+strings.Repeat(" ", 1000)).problem(413, vmstate.Invalid)
	s.do("POST", "/vms/vm1/console", strings.Repeat("x", 1000), "Content-Type: application/octet-stream").problem(413, vmstate.Invalid)
	// net/http is a little more generous than told.
	s.do("GET", "/vms", "", "X-Large: "+strings.Repeat("x", 20_000)).want(431)
	s.do("GET", "/vms?"+strings.Repeat("x", 20_000), "").want(431)
}

// Followers have places of their own number, and somebody who finds none is told when to come again.
func TestFollowers(t *testing.T) {
	vm := restapitest.VM("vm1")
	s := start(t, restapitest.New(vm), restapi.Options{Limits: restapi.Limits{Streams: 2}})
	follow := func(path string) *http.Response {
		resp, err := s.http.Get("http://qlive" + path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	events, console := follow("/events"), follow("/vms/vm1/console?follow=true")
	for _, path := range []string{"/events", "/vms/vm1/console?follow=true", "/v1/vms/vm1/log?follow=true"} {
		if a := s.do("GET", path, ""); a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %v", path, a.header)
		} else {
			a.problem(503, vmstate.Unavailable)
		}
	}
	s.do("GET", "/vms/vm1/console", "").want(200) // who does not stay needs no place
	events.Body.Close()
	console.Body.Close()
	for range 2 {
		eventually(t, func() error {
			if resp := follow("/events"); resp.StatusCode != 200 {
				return errors.New(resp.Status)
			}
			return nil
		})
	}
}
