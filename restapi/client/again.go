package client

import (
	"errors"
	"io"
	"net/http"

	"golang.org/x/sys/unix"
)

// again asks once more what a daemon has died over before it answered, if asking changes nothing. Where a service manager listens for the daemon, the
// next one answers then.
type again struct{ http.RoundTripper }

// RoundTrip is [http.RoundTripper]'s.
func (a again) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := a.RoundTripper.RoundTrip(req)
	if err == nil || req.Method != http.MethodGet || !brokenOff(err) || req.Context().Err() != nil {
		return resp, err
	}
	return a.RoundTripper.RoundTrip(req)
}

// brokenOff tells whether somebody was connected to who has gone.
func brokenOff(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
