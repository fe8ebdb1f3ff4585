package qmp

import (
	"context"
	"slices"
)

type fdnameArgs struct {
	Fdname string `json:"fdname"`
}

// Getfd gives QEMU a copy of fd under a name, for "fd:NAME" in a later command on this connection. The name must not
// begin with a digit; a name in use is replaced. It is gone once used.
func (c *Client) Getfd(ctx context.Context, name string, fd int) error {
	return c.DoWithFile(ctx, "getfd", fdnameArgs{name}, nil, fd)
}

// Closefd takes back a name that was given by Getfd and not used.
func (c *Client) Closefd(ctx context.Context, name string) error {
	return c.run(ctx, Command{"closefd", fdnameArgs{name}})
}

type addFdArgs struct {
	FdsetID int64  `json:"fdset-id"`
	Opaque  string `json:"opaque,omitempty"`
}

// AddedFd is a descriptor within a set of QEMU's.
type AddedFd struct {
	FdsetID int64 `json:"fdset-id"`
	FD      int64 `json:"fd"` // its number within QEMU
}

// AddFd puts a copy of fd into the set of that number, for the file name /dev/fdset/NUMBER in later commands. QEMU
// takes it only for the very access that it was opened for: one for reading and writing will not do for writing. Opaque is
// a note for whoever lists the sets.
func (c *Client) AddFd(ctx context.Context, set int64, opaque string, fd int) (AddedFd, error) {
	var added AddedFd
	err := c.DoWithFile(ctx, "add-fd", addFdArgs{set, opaque}, &added, fd)
	return added, err
}

type fdsetInfo struct {
	FdsetID int64 `json:"fdset-id"`
	Fds     []struct {
		FD int `json:"fd"`
	} `json:"fds"`
}

// QueryFdsets are the numbers, within QEMU, of the descriptors of each set that it has, rising.
func (c *Client) QueryFdsets(ctx context.Context) (map[int64][]int, error) {
	sets, err := ask[[]fdsetInfo](ctx, c, "query-fdsets", nil)
	all := make(map[int64][]int)
	for _, s := range sets {
		for _, d := range s.Fds {
			all[s.FdsetID] = append(all[s.FdsetID], d.FD)
		}
		slices.Sort(all[s.FdsetID])
	}
	return all, err
}

type removeFdArgs struct {
	FdsetID int64 `json:"fdset-id"`
}

// RemoveFd takes a set away. QEMU closes its descriptors once they are no longer used.
func (c *Client) RemoveFd(ctx context.Context, set int64) error {
	return c.run(ctx, Command{"remove-fd", removeFdArgs{set}})
}
