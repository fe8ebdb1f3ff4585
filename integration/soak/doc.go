// Package soak hands random guests over again and again while daemon and QEMUs are killed, made to hang and started anew.
//
// Everything is drawn from a seed: the guests, the versions of QEMU, the ways, who is struck, when and how. `make soak N=… SEED=…` runs until N handoffs
// have been asked for; the tests run for two minutes. An epoch draws from the seed and its own number, so that FROM=EPOCH begins at one that was
// seen to fail.
package soak
