package qmp

import "context"

type queryVersionReturn = versionInfo

// QueryVersion asks for the version that the greeting told: the cheapest sign of life.
func (c *Client) QueryVersion(ctx context.Context) (Version, error) {
	info, err := ask[queryVersionReturn](ctx, c, "query-version", nil)
	return info.version(), err
}

// Machine is a machine type that a binary offers.
type Machine struct {
	Name             string `json:"name"`
	Alias            string `json:"alias"`
	IsDefault        bool   `json:"is-default"`
	Deprecated       bool   `json:"deprecated"`
	CPUMax           int64  `json:"cpu-max"`
	HotpluggableCPUs bool   `json:"hotpluggable-cpus"`
	DefaultCPUType   string `json:"default-cpu-type"`
	DefaultRAMID     string `json:"default-ram-id"` // name of the RAM block of a plain -m
}

// QueryMachines lists the machine types of the binary.
func (c *Client) QueryMachines(ctx context.Context) ([]Machine, error) {
	return ask[[]Machine](ctx, c, "query-machines", nil)
}

type uuidReturn struct {
	UUID string `json:"UUID"`
}

// QueryUUID is the guest's UUID; all zeroes if it was given none.
func (c *Client) QueryUUID(ctx context.Context) (string, error) {
	r, err := ask[uuidReturn](ctx, c, "query-uuid", nil)
	return r.UUID, err
}

type nameReturn struct {
	Name string `json:"name"`
}

// QueryName is the guest's name, as given by -name; "" if it was given none.
func (c *Client) QueryName(ctx context.Context) (string, error) {
	r, err := ask[nameReturn](ctx, c, "query-name", nil)
	return r.Name, err
}

type guidReturn struct {
	GUID string `json:"guid"`
}

// QueryVMGenerationID is the GUID that the guest's vmgenid device shows; QEMU refuses if there is none.
func (c *Client) QueryVMGenerationID(ctx context.Context) (string, error) {
	r, err := ask[guidReturn](ctx, c, "query-vm-generation-id", nil)
	return r.GUID, err
}

// CPU is a vCPU.
type CPU struct {
	Index    int      `json:"cpu-index"`
	QOMPath  string   `json:"qom-path"`
	ThreadID int      `json:"thread-id"` // of the host
	Props    CPUProps `json:"props"`
}

// CPUProps place a vCPU in the guest's topology; nil where the machine has no such level.
type CPUProps struct {
	NodeID    *int `json:"node-id"`
	SocketID  *int `json:"socket-id"`
	DieID     *int `json:"die-id"`
	ClusterID *int `json:"cluster-id"`
	ModuleID  *int `json:"module-id" since:"9.1"`
	CoreID    *int `json:"core-id"`
	ThreadID  *int `json:"thread-id"`
}

// QueryCPUsFast lists the vCPUs without disturbing them.
func (c *Client) QueryCPUsFast(ctx context.Context) ([]CPU, error) {
	return ask[[]CPU](ctx, c, "query-cpus-fast", nil)
}

// IOThread is a thread that serves devices.
type IOThread struct {
	ID       string `json:"id"`
	ThreadID int    `json:"thread-id"` // of the host
}

// QueryIOThreads lists the iothreads.
func (c *Client) QueryIOThreads(ctx context.Context) ([]IOThread, error) {
	return ask[[]IOThread](ctx, c, "query-iothreads", nil)
}

// HotpluggableCPU is a place for a vCPU; QOMPath is "" if it is empty.
type HotpluggableCPU struct {
	Type       string   `json:"type"`
	VCPUsCount int      `json:"vcpus-count"`
	Props      CPUProps `json:"props"`
	QOMPath    string   `json:"qom-path"`
}

// QueryHotpluggableCPUs lists the places for vCPUs, taken or not.
func (c *Client) QueryHotpluggableCPUs(ctx context.Context) ([]HotpluggableCPU, error) {
	return ask[[]HotpluggableCPU](ctx, c, "query-hotpluggable-cpus", nil)
}

type humanArgs struct {
	CommandLine string `json:"command-line"`
}

// HumanMonitorCommand executes a command of the human monitor and gives its text. Such a command has no error: it
// complains in its text.
func (c *Client) HumanMonitorCommand(ctx context.Context, line string) (string, error) {
	return ask[string](ctx, c, "human-monitor-command", humanArgs{line})
}
