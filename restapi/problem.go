package restapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"qlive/vmstate"
)

// problemType is the media type of RFC 9457.
const problemType = "application/problem+json"

// Refusal is a problem document as REST sends it: vmstate's problem with what only a request can have.
type Refusal struct {
	vmstate.Problem
	Errors []Fault            `json:"errors,omitempty" doc:"each fault of a request that is not valid"`
	Result *vmstate.Migration `json:"result,omitempty" doc:"the migration that was waited for and did not complete"`
}

// Fault is one thing that is wrong with a request.
type Fault struct {
	Where string `json:"where,omitempty" doc:"such as body.args[2], path.vm or query.wait"`
	What  string `json:"what" doc:"what is wrong there"`
}

// Error is the detail.
func (r *Refusal) Error() string { return r.Detail }

// GetStatus is the HTTP status that it is sent with.
func (r *Refusal) GetStatus() int { return r.Status }

// ContentType makes JSON problem JSON.
func (r *Refusal) ContentType(string) string { return problemType }

// refusalOf is err as it is sent.
func refusalOf(err error) *Refusal { return &Refusal{Problem: *vmstate.ProblemOf(err)} }

// withStatus makes a refusal with another HTTP status than its kind's.
func withStatus(status int, err error) *Refusal {
	r := refusalOf(err)
	r.Status = status
	return r
}

// ended is the refusal for a migration that was waited for and ended otherwise than asked.
func ended(m vmstate.Migration) *Refusal {
	var r *Refusal
	if m.Error != nil {
		r = &Refusal{Problem: *m.Error}
	} else {
		e := vmstate.Errorf(vmstate.Cancelled, "cannot complete the migration of VM %s: it ended %s", m.VM, m.Phase)
		e.VM, e.Migration = m.VM, m.ID
		r = refusalOf(e)
	}
	r.Status = http.StatusConflict
	r.Result = &m
	return r
}

// translate is a huma transformer: huma's own errors leave as problems of ours.
func translate(_ huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	kind := vmstate.Invalid
	switch {
	case model.Status == http.StatusNotFound:
		kind = vmstate.NotFound
	case model.Status == http.StatusRequestTimeout:
		kind = vmstate.Timeout
	case model.Status >= 500:
		kind = vmstate.Internal
	}
	faults := faultsOf(model)
	detail := "cannot accept the request: " + model.Detail
	if len(faults) > 0 {
		said := make([]string, 0, len(faults))
		for _, f := range faults {
			said = append(said, f.String())
		}
		detail = "cannot accept the request: " + strings.Join(said, "; ")
	}
	r := withStatus(model.Status, vmstate.Errorf(kind, "%s", detail).With("see /docs for what the route takes"))
	r.Errors = faults
	return r, nil
}

func faultsOf(model *huma.ErrorModel) []Fault {
	faults := make([]Fault, 0, len(model.Errors))
	for _, d := range model.Errors {
		if d == nil {
			continue
		}
		what := d.Message
		if what == "unexpected property" {
			what = "unknown member"
		}
		faults = append(faults, Fault{Where: d.Location, What: what})
	}
	// huma walks maps: the same request shall get the same answer.
	slices.SortFunc(faults, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.Where, b.Where), strings.Compare(a.What, b.What))
	})
	return faults
}

// faultAt is err as what is wrong with a part of a request.
func faultAt(where string, err error) []error {
	what := err.Error()
	if remedy := vmstate.ProblemOf(err).Remedy; remedy != "" {
		what += ": " + remedy
	}
	return []error{&huma.ErrorDetail{Location: where, Message: what}}
}

func (f Fault) String() string {
	if f.Where == "" {
		return f.What
	}
	return f.Where + ": " + f.What
}

// write sends r outside huma: from the router and the middlewares.
func (r *Refusal) write(w http.ResponseWriter) {
	body, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("restapi: a problem document must marshal: %v", err))
	}
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(r.Status)
	w.Write(append(body, '\n')) //nolint:errcheck // the client is gone; nobody is left to tell
}
