package qmp

import "context"

type displayUpdateArgs struct {
	Type      string `json:"type"`
	Addresses []any  `json:"addresses,omitempty"`
}

// VNCListen lets the first VNC display listen at an address, a SocketAddress of QEMU's, instead of where it does. Whoever is connected stays.
func (c *Client) VNCListen(ctx context.Context, address any) error {
	return c.run(ctx, Command{"display-update", displayUpdateArgs{"vnc", []any{address}}})
}

// VNCServer is a VNC display.
type VNCServer struct {
	ID     string      `json:"id"`
	Server []VNCSocket `json:"server"` // none if it does not listen
}

// VNCSocket is where one listens.
type VNCSocket struct {
	Host    string `json:"host"`
	Service string `json:"service"`
}

// QueryVNCServers lists the VNC displays.
func (c *Client) QueryVNCServers(ctx context.Context) ([]VNCServer, error) {
	return ask[[]VNCServer](ctx, c, "query-vnc-servers", nil)
}
