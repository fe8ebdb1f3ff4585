# The QEMUs and the kernel in the cache.
# shellcheck shell=bash

# have_qemu VERSION …: it starts and is that version.
have_qemu() {
	[[ $("$cache/qemu/$1/qemu-system-x86_64" --version) == "QEMU emulator version $1 "* ]]
}

link_qemu() {
	mkdir -p "$cache/qemu/$1"
	ln -sfn /usr/bin/qemu-system-x86_64 "$cache/qemu/$1/qemu-system-x86_64"
}

# unpack_qemu VERSION SUITE: QEMU and its libraries as a tree of their own, run
# through the tree's own loader; nothing of it is installed.
unpack_qemu() {
	local version=$1 suite=$2 work=$cache/tmp/qemu-$1 final=$cache/qemu/$1 suites=$2 deb
	case $suite in *-backports) suites="${suite%-backports} $suite" ;; esac
	# A glob: Debian adds its own revision to the version.
	fetch_closure "$work/apt" "$suites" "qemu-system-x86=1:$version+*"
	# One folder for /lib and /usr/lib, whichever of them a package uses.
	mkdir -p "$work/all/usr/lib" "$work/new/tree/usr"/{bin,lib,share}
	ln -s usr/lib "$work/all/lib"
	for deb in "$work/apt/archives"/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$work/all"
	done
	# Keep what QEMU reads, and no set-uid program of another release.
	mv "$work/all/usr/bin/qemu-system-x86_64" "$work/new/tree/usr/bin/"
	mv "$work/all/usr/lib/x86_64-linux-gnu" "$work/new/tree/usr/lib/"
	if [[ -d $work/all/usr/lib/ipxe ]]; then mv "$work/all/usr/lib/ipxe" "$work/new/tree/usr/lib/"; fi
	qemu_wrapper "$final/tree" >"$work/new/qemu-system-x86_64"
	chmod 0755 "$work/new/qemu-system-x86_64"
	rm -rf "$final"
	mkdir -p "$cache/qemu"
	mv -T "$work/new" "$final"
	rm -rf "$work"
}

# qemu_wrapper TREE prints the script that runs it. Debian builds QEMU to look under
# /usr whatever its own place: firmware and modules have to be pointed at the tree.
qemu_wrapper() {
	cat <<-END
		#!/bin/sh
		# Runs the QEMU unpacked in tree/ with the loader, libraries, firmware and
		# modules that came with it.
		usr='$1/usr'
		lib=\$usr/lib/x86_64-linux-gnu
		export QEMU_MODULE_DIR="\$lib/qemu"
		exec "\$lib/ld-linux-x86-64.so.2" --library-path "\$lib" "\$usr/bin/qemu-system-x86_64" \\
		    -L "\$usr/share/qemu" -L "\$usr/share/seabios" -L "\$usr/lib/ipxe/qemu" "\$@"
	END
}

have_kernel() { [[ -s $cache/kernel/vmlinuz ]]; }

# unpack_kernel takes vmlinuz out of Debian's cloud kernel; the package is not installed.
unpack_kernel() {
	local work=$cache/tmp/kernel package
	mkdir -p "$work" "$cache/kernel"
	package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
	(cd "$work" && apt-get download -o APT::Sandbox::User=root "$package")
	dpkg-deb -x "$work"/*.deb "$work/all"
	mv "$work"/all/boot/vmlinuz-* "$work/vmlinuz"
	chmod 0644 "$work/vmlinuz"
	mv "$work/vmlinuz" "$cache/kernel/vmlinuz"
	rm -rf "$work"
}
