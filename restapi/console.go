package restapi

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"qlive/vmstate"
	"qlive/vmstate/logfile"
)

// followEvery is how often a followed file is looked at. The files are local and each look is a stat; inotify would
// save the stats and cost a descriptor and a goroutine for each reader.
const followEvery = 50 * time.Millisecond

type logInput struct {
	VMPath
	Follow bool  `query:"follow" doc:"go on with what comes, until the VM is gone or stopped"`
	Tail   int64 `query:"tail" minimum:"-1" default:"-1" doc:"begin so many bytes before the end; -1 for all there is"`
}

type typeInput struct {
	VMPath
	RawBody []byte `contentType:"application/octet-stream"`
}

func (a *api) consoleRoutes() {
	text := func(what string) map[string]*huma.Response {
		return map[string]*huma.Response{"200": {Description: what, Content: textContent("text/plain", "")}}
	}
	add(a, huma.Operation{OperationID: "read-console", Method: http.MethodGet, Path: "/vms/{vm}/console", Summary: "Read what the guest wrote on its serial console", Tags: []string{"Console"},
		Description: "The bytes as they came, over all QEMUs that had the guest.", Responses: text("The console's text")},
		a.logReader(func(vm vmstate.VM) []string { return vm.ConsoleLog }))
	add(a, huma.Operation{OperationID: "read-log", Method: http.MethodGet, Path: "/vms/{vm}/log", Summary: "Read what QEMU wrote on its standard error", Tags: []string{"Console"},
		Responses: text("QEMU's log")}, a.logReader(func(vm vmstate.VM) []string { return vm.QEMULog }))
	add(a, huma.Operation{OperationID: "write-console", Method: http.MethodPost, Path: "/vms/{vm}/console", Summary: "Type on the guest's serial console", Tags: []string{"Console"},
		Description: "The body's bytes, as they are.", DefaultStatus: http.StatusNoContent}, a.typeConsole)
}

func (a *api) typeConsole(_ context.Context, in *typeInput) (*struct{}, error) {
	if _, err := a.vm(in.VM); err != nil {
		return nil, err
	}
	return nil, a.svc.Console(in.VM, in.RawBody)
}

// logReader is a handler that sends the files that pick names.
func (a *api) logReader(pick func(vmstate.VM) []string) func(context.Context, *logInput) (*huma.StreamResponse, error) {
	return func(_ context.Context, in *logInput) (*huma.StreamResponse, error) {
		if _, err := a.vm(in.VM); err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humachi.Unwrap(hc)
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			if r.Method == http.MethodHead {
				return
			}
			if in.Follow {
				done, ok := a.follow(r, w, "follower of a log")
				if !ok {
					return
				}
				defer done()
			}
			w.WriteHeader(http.StatusOK)
			a.copyLogs(r.Context(), w, pick, in)
		}}, nil
	}
}

// copyLogs sends the files in order, and when following what is added to any of them, until the VM is gone or has
// stopped. No deadline: a reader that rests, a pager, holds up only itself.
func (a *api) copyLogs(ctx context.Context, w http.ResponseWriter, pick func(vmstate.VM) []string, in *logInput) {
	vm, there := a.svc.Snapshot().VM(in.VM)
	sent := allBut(in.Tail, pick(vm)) // bytes of each file
	control := http.NewResponseController(w)
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		for _, path := range pick(vm) {
			sent[path] = max(sent[path], logfile.Stat(path).Begin) // what a slow reader has missed is gone
			n, err := copyFrom(w, path, sent[path])
			sent[path] += n
			if err != nil {
				return
			}
		}
		if control.Flush() != nil || !in.Follow || !there || vm.Status == vmstate.Stopped {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		// The state is read before the files: what a VM wrote before it stopped is then seen.
		vm, there = a.svc.Snapshot().VM(in.VM)
	}
}

// allBut is how much of each file to leave out so that tail bytes remain; no more than is dropped already if tail is negative.
func allBut(tail int64, paths []string) map[string]int64 {
	out := map[string]int64{}
	for _, path := range slices.Backward(paths) {
		info := logfile.Stat(path)
		keep := info.Size()
		if tail >= 0 {
			keep = min(tail, keep)
			tail -= keep
		}
		out[path] = info.End - keep
	}
	return out
}

// copyFrom sends what the file holds after offset. A file that is not there is empty.
func copyFrom(w io.Writer, path string, offset int64) (int64, error) {
	end := logfile.Stat(path).End
	if end <= offset {
		return 0, nil
	}
	f, err := logfile.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(w, io.NewSectionReader(f, offset, end-offset))
}
