package restapi

import (
	"reflect"
	"sync"
	"time"

	"qlive/vmstate"
)

// Limits bound what clients can take from the daemon. A field that is zero takes its default.
type Limits struct {
	BodyBytes      int64         `yaml:"body_bytes"`       // of a request; one of just this size is refused already
	HeaderBytes    int           `yaml:"header_bytes"`     // of the request line and the headers together
	HeaderTime     time.Duration `yaml:"header_time"`      // from the first byte to the end of the headers; over TCP the handshake has as long
	BodyTime       time.Duration `yaml:"body_time"`        // for the whole request, its body included
	IdleTime       time.Duration `yaml:"idle_time"`        // between two requests on a connection
	Connections    int           `yaml:"connections"`      // on a listener
	PerUser        int           `yaml:"per_user"`         // of them, by one user, over TCP by one address
	Streams        int           `yaml:"streams"`          // readers of events, and of a console or log that they follow
	StreamsPerUser int           `yaml:"streams_per_user"` // of them, by one user or certificate
}

// DefaultLimits are what holds where nothing else is said.
func DefaultLimits() Limits {
	return Limits{
		BodyBytes: 1 << 20, HeaderBytes: 64 << 10,
		HeaderTime: 5 * time.Second, BodyTime: 30 * time.Second, IdleTime: 2 * time.Minute,
		Connections: 256, PerUser: 64, Streams: 128, StreamsPerUser: 32,
	}
}

// Check tells which of the limits could not be kept.
func (l Limits) Check() error {
	v := reflect.ValueOf(l)
	for i := range v.NumField() {
		if v.Field(i).Int() < 0 {
			return vmstate.Errorf(vmstate.Invalid, "cannot use %v as limits.%s: it is negative", v.Field(i), v.Type().Field(i).Tag.Get("yaml")).
				With("leave it out for the default")
		}
	}
	return nil
}

// orDefaults is l with the defaults in place of zeros.
func (l Limits) orDefaults() Limits {
	out, defaults := reflect.ValueOf(&l).Elem(), reflect.ValueOf(DefaultLimits())
	for i := range out.NumField() {
		if out.Field(i).IsZero() {
			out.Field(i).Set(defaults.Field(i))
		}
	}
	return l
}

// pool bounds how many of a thing there are, in all and for each user. Administrators draw on a part of their own, as large as that
// of all others, so that nobody can lock them out.
type pool struct {
	total, perUser int

	mu     sync.Mutex
	admins int
	others int
	users  map[string]int // of the others
}

func newPool(total, perUser int) *pool {
	return &pool{total: total, perUser: perUser, users: map[string]int{}}
}

// take gives user one of the things, to be given back once; false if there is none left for them.
func (p *pool) take(user string, admin bool) (giveBack func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if admin {
		if p.admins >= p.total {
			return nil, false
		}
		p.admins++
		return sync.OnceFunc(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.admins--
		}), true
	}
	if p.others >= p.total || p.users[user] >= p.perUser {
		return nil, false
	}
	p.others++
	p.users[user]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.others--
		if p.users[user]--; p.users[user] == 0 {
			delete(p.users, user)
		}
	}), true
}

// tooMany is the refusal for a client that must wait until others, or it itself, have ended something.
func tooMany(what string) *Refusal {
	return refusalOf(vmstate.Errorf(vmstate.Unavailable, "cannot serve another %s: there are as many as the daemon's limits allow", what).
		With("end some, or ask again later; an administrator can raise the limits in the configuration"))
}
