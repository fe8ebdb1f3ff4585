package qmp

import "context"

// PCIBus is a PCI bus with its devices.
type PCIBus struct {
	Bus     int         `json:"bus"`
	Devices []PCIDevice `json:"devices"`
}

// PCIDevice is a function of a PCI device.
type PCIDevice struct {
	Bus       int         `json:"bus"`
	Slot      int         `json:"slot"`
	Function  int         `json:"function"`
	ClassInfo PCIClass    `json:"class_info"`
	ID        PCIID       `json:"id"`
	QdevID    string      `json:"qdev_id"` // id= of its -device, "" for none
	Bridge    *PCIBridge  `json:"pci_bridge"`
	Regions   []PCIRegion `json:"regions"`
}

// PCIClass is what sort of device it is.
type PCIClass struct {
	Class int    `json:"class"`
	Desc  string `json:"desc"`
}

// PCIID tells device models apart.
type PCIID struct {
	Device          int `json:"device"`
	Vendor          int `json:"vendor"`
	Subsystem       int `json:"subsystem"`
	SubsystemVendor int `json:"subsystem-vendor"`
}

// PCIRegion is a base address register of a device.
type PCIRegion struct {
	BAR       int    `json:"bar"`
	Type      string `json:"type"`    // "io" or "memory"
	Address   int64  `json:"address"` // -1 while the guest has not mapped it
	Size      int64  `json:"size"`    // bytes
	Prefetch  bool   `json:"prefetch"`
	MemType64 bool   `json:"mem_type_64"`
}

// PCIBridge is the far side of a bridge.
type PCIBridge struct {
	Bus     PCIBridgeBus `json:"bus"`
	Devices []PCIDevice  `json:"devices"`
}

// PCIBridgeBus are the bus numbers of a bridge, which the guest assigns.
type PCIBridgeBus struct {
	Number      int `json:"number"`
	Secondary   int `json:"secondary"`
	Subordinate int `json:"subordinate"`
}

// QueryPCI lists the PCI buses.
func (c *Client) QueryPCI(ctx context.Context) ([]PCIBus, error) {
	return ask[[]PCIBus](ctx, c, "query-pci", nil)
}
