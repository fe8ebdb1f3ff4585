package qmp_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"qlive/internal/qmp"
)

// What a QEMU of known shape says of itself.
func TestQueries(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t), "-smp", "1,maxcpus=2",
			"-name", "guest", "-uuid", "01234567-89ab-cdef-0123-456789abcdef",
			"-device", "vmgenid,guid=324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87",
			"-object", "memory-backend-ram,id=dimm0,size=128M", "-device", "pc-dimm,id=stick,memdev=dimm0",
			"-blockdev", "driver=null-co,node-name=disk0,size=1048576,read-zeroes=on",
			"-device", "pcie-root-port,id=rp0,bus=pcie.0,addr=4,chassis=1,slot=1",
			"-device", "virtio-blk-pci,id=disk,drive=disk0,bus=rp0", "-device", "VGA,id=vga,bus=pcie.0,addr=5")
		ctx := within(t, patience)
		if got := q.Version(); got.String() != version || got.Package == "" {
			t.Errorf("greeting: version %+v", got)
		}
		expect(t, "QueryVersion")(q.QueryVersion(ctx))(q.Version())
		expect(t, "QueryStatus")(q.QueryStatus(ctx))(qmp.Status{Running: false, Status: qmp.RunPrelaunch})
		expect(t, "QueryName")(q.QueryName(ctx))("guest")
		expect(t, "QueryUUID")(q.QueryUUID(ctx))("01234567-89ab-cdef-0123-456789abcdef")
		expect(t, "QueryVMGenerationID")(q.QueryVMGenerationID(ctx))("324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87")
		t.Run("machines", func(t *testing.T) { checkMachines(ctx, t, q) })
		t.Run("memory", func(t *testing.T) { checkMemory(ctx, t, q) })
		t.Run("blocks of RAM", func(t *testing.T) { checkRAMBlocks(ctx, t, q) })
		t.Run("objects", func(t *testing.T) { checkObjects(ctx, t, q) })
		t.Run("PCI", func(t *testing.T) { checkPCI(ctx, t, q) })
		t.Run("CPUs", func(t *testing.T) { checkCPUs(ctx, t, q) })
		t.Run("drives", func(t *testing.T) { checkDrives(ctx, t, q) })
		t.Run("human monitor", func(t *testing.T) {
			text, err := q.HumanMonitorCommand(ctx, "info version")
			if err != nil || !strings.HasPrefix(text, version) {
				t.Errorf("info version: %q, %v", text, err)
			}
		})
	})
}

// expect compares what a query gave with what it should.
func expect(t *testing.T, what string) func(got any, err error) func(want any) {
	return func(got any, err error) func(any) {
		return func(want any) {
			t.Helper()
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s = %+v, %v; want %+v", what, got, err, want)
			}
		}
	}
}

func checkMachines(ctx context.Context, t *testing.T, q *qemu) {
	machines, err := q.QueryMachines(ctx)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(machines, func(m qmp.Machine) bool { return m.Name == "pc-q35-7.2" })
	if i < 0 {
		t.Fatalf("no pc-q35-7.2 among %+v", machines)
	}
	m := machines[i]
	if m.DefaultRAMID != "pc.ram" || m.CPUMax != 288 || !m.HotpluggableCPUs || m.DefaultCPUType == "" {
		t.Errorf("pc-q35-7.2: %+v", m)
	}
	if !slices.ContainsFunc(machines, func(m qmp.Machine) bool { return m.Alias == "q35" }) {
		t.Error("no machine has the alias q35")
	}
}

func checkMemory(ctx context.Context, t *testing.T, q *qemu) {
	backends, err := q.QueryMemdev(ctx)
	if err != nil || len(backends) != 2 {
		t.Fatalf("QueryMemdev = %+v, %v", backends, err)
	}
	for _, b := range backends {
		shared := b.ID == "ram0"
		if b.Share != shared || shared && b.Size != ramBytes || !shared && (b.ID != "dimm0" || b.Size != 128<<20) {
			t.Errorf("backend %+v", b)
		}
	}
	devices, err := q.QueryMemoryDevices(ctx)
	if err != nil || len(devices) != 1 {
		t.Fatalf("QueryMemoryDevices = %+v, %v", devices, err)
	}
	d := devices[0]
	if d.Type != "dimm" || d.Data.ID != "stick" || d.Data.Memdev != "/objects/dimm0" || d.Data.Size != 128<<20 ||
		d.Data.Addr == 0 || d.Data.Hotplugged {
		t.Errorf("memory device %+v", d)
	}
}

func checkRAMBlocks(ctx context.Context, t *testing.T, q *qemu) {
	blocks, err := q.QueryRAMBlocks(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[string]uint64{"ram0": ramBytes, "dimm0": 128 << 20, "0000:00:05.0/vga.vram": 16 << 20, "pc.bios": 256 << 10}
	for _, b := range blocks {
		if want, ok := sizes[b.Name]; ok && (b.Used != want || b.Total != want || b.PageSize != 4096) {
			t.Errorf("block %+v, want %d bytes", b, want)
		}
		if b.Host != q.Version().AtLeast(8, 0) || b.Host && b.HVA == 0 {
			t.Errorf("block %+v: host address known in %s?", b, q.Version())
		}
		if b.Host && b.Name == "pc.bios" != b.ReadOnly && strings.Contains("ram0 dimm0 pc.bios", b.Name) {
			t.Errorf("block %+v: read-only?", b)
		}
		delete(sizes, b.Name)
	}
	if len(sizes) > 0 {
		t.Errorf("blocks missing: %v", sizes)
	}
	text, err := q.HumanMonitorCommand(ctx, "info ramblock")
	if err != nil {
		t.Fatal(err)
	}
	again, err := qmp.ParseRAMBlocks(text)
	if err != nil || !slices.Equal(again, blocks) {
		t.Errorf("info ramblock says %+v, %v; x-query-ramblock %+v", again, err, blocks)
	}
}

func checkObjects(ctx context.Context, t *testing.T, q *qemu) {
	objects, err := q.QOMList(ctx, "/objects")
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(objects, func(p qmp.QOMProperty) bool { return p.Name == "ram0" })
	if i < 0 {
		t.Fatalf("no ram0 among %+v", objects)
	}
	if kind, ok := objects[i].Child(); !ok || kind != "memory-backend-file" {
		t.Errorf("ram0 holds %q, %t", kind, ok)
	}
	if kind, ok := (qmp.QOMProperty{Type: "string"}).Child(); ok {
		t.Errorf("a string holds %q", kind)
	}
	var path string
	var before, after bool
	if err := errors.Join(
		q.QOMGet(ctx, "/objects/ram0", "mem-path", &path),
		q.QOMGet(ctx, "/objects/ram0", "prealloc", &before),
		q.QOMSet(ctx, "/objects/ram0", "prealloc", true),
		q.QOMGet(ctx, "/objects/ram0", "prealloc", &after),
	); err != nil || path != "/proc/self/fd/3" || before || !after {
		t.Errorf("mem-path %q, prealloc %t, then %t: %v", path, before, after, err)
	}
	err = q.QOMGet(ctx, "/objects/nothing", "share", &path)
	if refusal, ok := errors.AsType[*qmp.Error](err); !ok || refusal.Class != qmp.ClassDeviceNotFound {
		t.Errorf("an object that is not: %v", err)
	}
}

func checkPCI(ctx context.Context, t *testing.T, q *qemu) {
	buses, err := q.QueryPCI(ctx)
	if err != nil || len(buses) != 1 {
		t.Fatalf("QueryPCI = %+v, %v", buses, err)
	}
	byID := map[string]qmp.PCIDevice{}
	for _, d := range buses[0].Devices {
		byID[d.QdevID] = d
	}
	vga := byID["vga"]
	if vga.Slot != 5 || vga.Function != 0 || vga.ID.Vendor != 0x1234 || vga.ID.Device != 0x1111 || vga.ClassInfo.Class != 0x300 {
		t.Errorf("VGA %+v", vga)
	}
	if len(vga.Regions) == 0 || vga.Regions[0].Type != "memory" || vga.Regions[0].Size != 16<<20 ||
		vga.Regions[0].Address != -1 || !vga.Regions[0].Prefetch {
		t.Errorf("regions of the VGA %+v", vga.Regions)
	}
	bridge := byID["rp0"].Bridge
	if bridge == nil {
		t.Fatalf("no bridge at %+v", byID["rp0"])
	}
	if bridge.Bus.Secondary != 0 { // the firmware has not run: it would have numbered the bus
		t.Errorf("bus behind the port: %+v", bridge.Bus)
	}
}

func checkCPUs(ctx context.Context, t *testing.T, q *qemu) {
	cpus, err := q.QueryCPUsFast(ctx)
	if err != nil || len(cpus) != 1 {
		t.Fatalf("QueryCPUsFast = %+v, %v", cpus, err)
	}
	c := cpus[0]
	if c.Index != 0 || c.ThreadID == 0 || !strings.HasPrefix(c.QOMPath, "/machine/") || c.Props.SocketID == nil || *c.Props.SocketID != 0 {
		t.Errorf("CPU %+v", c)
	}
	places, err := q.QueryHotpluggableCPUs(ctx)
	if err != nil || len(places) != 2 {
		t.Fatalf("QueryHotpluggableCPUs = %+v, %v", places, err)
	}
	taken := 0
	for _, p := range places {
		if p.QOMPath != "" {
			taken++
		}
		if p.Type != "qemu64-x86_64-cpu" || p.VCPUsCount != 1 {
			t.Errorf("place %+v", p)
		}
	}
	if taken != 1 {
		t.Errorf("%d places taken, want 1", taken)
	}
}

func checkDrives(ctx context.Context, t *testing.T, q *qemu) {
	drives, err := q.QueryBlock(ctx)
	if err != nil || len(drives) != 1 {
		t.Fatalf("QueryBlock = %+v, %v", drives, err)
	}
	d := drives[0]
	if d.Inserted == nil {
		t.Fatalf("empty drive %+v", d)
	}
	if !strings.Contains(d.Qdev, "disk") || d.Removable || d.Inserted.NodeName != "disk0" || d.Inserted.Driver != "null-co" ||
		d.Inserted.Image.VirtualSize != 1<<20 || !d.Inserted.Cache.Writeback {
		t.Errorf("drive %+v with %+v", d, d.Inserted)
	}
	if known := q.Version().AtLeast(10, 0); (d.Inserted.Active != nil) != known {
		t.Errorf("active is told: %t, want %t", d.Inserted.Active != nil, known)
	}
}

func TestRefusals(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		tests := map[string]struct {
			err  error
			says string
		}{
			"unknown command":    {q.Do(ctx, "x-frobnicate", nil, nil), "has not been found"},
			"unknown argument":   {q.Do(ctx, "getfd", map[string]string{"name": "x"}, nil), "arameter"},
			"no descriptor sent": {q.Do(ctx, "getfd", map[string]string{"fdname": "x"}, nil), "No file descriptor supplied"},
			"no such descriptor": {q.Closefd(ctx, "nothing"), "nothing"},
			"unknown capability": {q.MigrateSetCapabilities(ctx, map[string]bool{"frobnicate": true}), "frobnicate"},
			"nothing to load":    {q.MigrateIncoming(ctx, "fd:x", nil), "'-incoming' was not specified"},
			"no such channel":    {q.Migrate(ctx, "fd:nothing"), "nothing"},
			"no postcopy":        {q.MigrateStartPostcopy(ctx), "ostcopy"},
			"no set":             {q.RemoveFd(ctx, 99), "99"},
			"no vmgenid":         {second(q.QueryVMGenerationID(ctx)), "not"},
			"what is no JSON for QEMU": {
				q.Do(ctx, "qom-list", map[string]string{"path": "\uffff"}, nil), "JSON parse error", // without an id
			},
		}
		for name, tt := range tests {
			if _, ok := errors.AsType[*qmp.Error](tt.err); !ok || !strings.Contains(tt.err.Error(), tt.says) {
				t.Errorf("%s: got %v, want QEMU's error with %q", name, tt.err, tt.says)
			}
		}
		if status, err := q.QueryStatus(ctx); err != nil || status.Status != qmp.RunPrelaunch {
			t.Errorf("afterwards: %+v, %v", status, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestCapabilitiesAndParameters(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		before, err := q.QueryMigrateCapabilities(ctx)
		if err != nil || before[qmp.CapEvents] || before[qmp.CapIgnoreShared] {
			t.Fatalf("at the start: %v, %v", before, err)
		}
		set := map[string]bool{qmp.CapEvents: true, qmp.CapIgnoreShared: true, qmp.CapReturnPath: false}
		if err := q.MigrateSetCapabilities(ctx, set); err != nil {
			t.Fatal(err)
		}
		after, err := q.QueryMigrateCapabilities(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for name, was := range before {
			want, named := set[name]
			if !named {
				want = was
			}
			if after[name] != want {
				t.Errorf("capability %s is %t, want %t", name, after[name], want)
			}
		}

		want := qmp.MigrateParameters{MaxBandwidth: new(int64(0)), DowntimeLimit: new(int64(321)), AnnounceRounds: new(int64(0)),
			MaxPostcopyBandwidth: new(int64(7 << 20))}
		if err := q.MigrateSetParameters(ctx, want); err != nil {
			t.Fatal(err)
		}
		got, err := q.QueryMigrateParameters(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if q.Version().AtLeast(8, 2) {
			want.Mode = new("normal")
		}
		if show(got) != show(want) {
			t.Errorf("parameters %s, want %s", show(got), show(want))
		}
	})
}

// show renders a struct of pointers by what they point to.
func show(v any) string {
	var b strings.Builder
	for i := range reflect.TypeOf(v).NumField() {
		fmt.Fprintf(&b, "%s=%v ", reflect.TypeOf(v).Field(i).Name, reflect.Indirect(reflect.ValueOf(v).Field(i)))
	}
	return b.String()
}
