// Package fstest says what a mounted tree must do, whoever serves it: the package fsview alone with made-up VMs,
// or a whole daemon with real ones.
//
//	for _, c := range fstest.Cases() {
//		t.Run(c.Name, func(t *testing.T) { c.Run(t, fstest.Target{Dir: dir, VM: "vm1"}) })
//	}
//
// A case rests on nothing but the folder and the name of a VM in it. It leaves the VM alone: the only commands
// that it writes are ones that must be refused.
package fstest
