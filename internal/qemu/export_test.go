package qemu

import "time"

// Environment is environment.
var Environment = environment

// InterpreterOf is interpreterOf.
var InterpreterOf = interpreterOf

// SetTimeout changes how long a probe may take.
func (p *Prober) SetTimeout(d time.Duration) { p.timeout = d }

// Known is how many answers the prober remembers.
func (p *Prober) Known() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.known)
}
