// Package field runs command lines of the field for real: as libvirt, Proxmox and Incus write them, with nothing changed but what a
// test cannot have (their disks, folders, KVM, firmware), with a guest in them that is handed to another QEMU. It holds nothing but
// tests. The lines, and what is refused of the others, are in internal/qemu/cmdline/testdata/field.
package field
