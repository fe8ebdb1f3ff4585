package flip

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"qlive/internal/qmp"
	"qlive/internal/qmp/qmptest"
	"qlive/vmstate"
)

// A QEMU that obeys, and does not turn a capability on, is found out: what counts is what it says afterwards.
func TestCapabilityIgnored(t *testing.T) {
	for _, deaf := range []string{"", qmp.CapIgnoreShared, qmp.CapReturnPath, qmp.CapEvents, qmp.CapLateBlockActivate} {
		t.Run(deaf, func(t *testing.T) {
			type state struct {
				Capability string `json:"capability"`
				State      bool   `json:"state"`
			}
			var have []state
			var parameters bool
			path := qmptest.Listen(t, func(c *qmptest.Conn) {
				c.Handshake()
				c.Serve(map[string]qmptest.Handler{
					"migrate-set-capabilities": func(r qmptest.Request) (any, error) {
						var args struct {
							Capabilities []state `json:"capabilities"`
						}
						err := json.Unmarshal(r.Arguments, &args)
						have = slices.DeleteFunc(args.Capabilities, func(s state) bool { return s.Capability == deaf })
						return struct{}{}, err
					},
					"query-migrate-capabilities": func(qmptest.Request) (any, error) { return append(have, state{deaf, false}), nil },
					"migrate-set-parameters": func(qmptest.Request) (any, error) {
						parameters = true
						return struct{}{}, nil
					},
				})
			})
			monitor, err := qmp.Dial(t.Context(), path, qmp.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer monitor.Close()
			h := &Handoff{target: &Side{Monitor: monitor, Version: "10.0.2"}}
			err = h.prepareTarget(t.Context())
			switch {
			case deaf == "" && (err != nil || !parameters):
				t.Errorf("a QEMU that obeys: %v, parameters set: %v", err, parameters)
			case deaf != "" && (vmstate.KindOf(err) != vmstate.Incompatible || !strings.Contains(err.Error(), "cannot switch "+deaf+" in QEMU 10.0.2")):
				t.Errorf("the error is %v", err)
			}
		})
	}
}
