// Package confined tests, with real QEMUs, what they are allowed: as which user and in which cgroup they run, what they inherit and
// can open, and what becomes of a handoff when the host has not enough of something.
package confined
