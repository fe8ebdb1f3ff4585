package qmp

import "context"

// BlockDevice is a drive of the guest.
type BlockDevice struct {
	Device    string         `json:"device"` // name of the backend, "" for one made by -blockdev
	Qdev      string         `json:"qdev"`   // QOM path or id of the device
	Removable bool           `json:"removable"`
	Locked    bool           `json:"locked"`
	TrayOpen  bool           `json:"tray_open"`
	IOStatus  string         `json:"io-status"` // "ok", "failed", "nospace", "" if not watched
	Inserted  *BlockInserted `json:"inserted"`  // nil for an empty drive
}

// BlockInserted is the medium in a drive.
type BlockInserted struct {
	File     string     `json:"file"`
	NodeName string     `json:"node-name"`
	ReadOnly bool       `json:"ro"`
	Driver   string     `json:"drv"`
	Active   *bool      `json:"active" since:"10.0"` // false while the image belongs to another process
	Image    BlockImage `json:"image"`
	Cache    BlockCache `json:"cache"`
}

// BlockImage is the image of a medium.
type BlockImage struct {
	Filename    string `json:"filename"`
	Format      string `json:"format"`
	VirtualSize int64  `json:"virtual-size"` // bytes
}

// BlockCache is how a medium is cached.
type BlockCache struct {
	Writeback bool `json:"writeback"`
	Direct    bool `json:"direct"`
	NoFlush   bool `json:"no-flush"`
}

// QueryBlock lists the guest's drives.
func (c *Client) QueryBlock(ctx context.Context) ([]BlockDevice, error) {
	return ask[[]BlockDevice](ctx, c, "query-block", nil)
}
