package qmp

import "context"

// MemoryBackend is a memory-backend object.
type MemoryBackend struct {
	ID        string  `json:"id"`
	Size      int64   `json:"size"` // bytes
	Merge     bool    `json:"merge"`
	Dump      bool    `json:"dump"`
	Prealloc  bool    `json:"prealloc"`
	Share     bool    `json:"share"`
	Reserve   *bool   `json:"reserve"`
	HostNodes []int64 `json:"host-nodes"`
	Policy    string  `json:"policy"`
}

// QueryMemdev lists the memory backends.
func (c *Client) QueryMemdev(ctx context.Context) ([]MemoryBackend, error) {
	return ask[[]MemoryBackend](ctx, c, "query-memdev", nil)
}

// MemoryDevice is a DIMM, an NVDIMM, a virtio-mem or another device that brings memory. Type says which; members that
// the type does not have are zero.
type MemoryDevice struct {
	Type string           `json:"type"`
	Data MemoryDeviceData `json:"data"`
}

// MemoryDeviceData joins what the types of memory devices have.
type MemoryDeviceData struct {
	ID            string `json:"id"`
	Memdev        string `json:"memdev"` // QOM path of the backend
	Size          int64  `json:"size"`   // bytes plugged
	Node          int64  `json:"node"`
	Addr          int64  `json:"addr"` // guest-physical; dimm, nvdimm
	Slot          int64  `json:"slot"` // dimm, nvdimm
	Hotplugged    bool   `json:"hotplugged"`
	Hotpluggable  bool   `json:"hotpluggable"`
	Memaddr       int64  `json:"memaddr"` // guest-physical; virtio-mem, virtio-pmem
	MaxSize       int64  `json:"max-size"`
	RequestedSize int64  `json:"requested-size"`
	BlockSize     int64  `json:"block-size"`
}

// QueryMemoryDevices lists the memory devices, not the machine's own RAM.
func (c *Client) QueryMemoryDevices(ctx context.Context) ([]MemoryDevice, error) {
	return ask[[]MemoryDevice](ctx, c, "query-memory-devices", nil)
}
