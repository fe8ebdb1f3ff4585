// Package handoff holds the tests of a whole qlive handing real guests over between real QEMUs. There is nothing to import.
package handoff
