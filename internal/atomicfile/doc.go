// Package atomicfile replaces files so that a reader, or a host that loses its power, sees the old content or the new
// one, whole.
//
// The steps are those that a file system demands for this: write a temporary file beside it, sync it, rename it,
// sync the folder. Temporary files have names that start with a dot and end in ".tmp"; what a crash left of them
// [Sweep] removes.
//
// The package must not import anything of qlive.
package atomicfile
