# What the cache holds: Go, a kernel, QEMUs. Each part has a check, have_…, and a
# maker that works in the cache's tmp and moves the finished part into place.
# shellcheck shell=bash disable=SC2154 # cache and root are the caller's

# A Go that is too old refuses, or cannot read, this go.mod.
have_go() { (cd "$root" && go version && go list -m); }

unpack_go() {
	local work=$cache/tmp/go
	fetch "$work" trixie-backports download golang-1.26-go golang-1.26-src
	unpack "$work/archives" "$work/tree"
	ln -s usr/lib/go-1.26/bin "$work/tree/bin"
	rm -rf "$cache/go"
	mv -T "$work/tree" "$cache/go"
}

have_kernel() { [[ -s $cache/kernel/vmlinuz && -d $cache/kernel/modules ]]; }

# unpack_kernel takes vmlinuz and its modules (virtio is among them) out of Debian's cloud kernel; nothing is installed.
unpack_kernel() {
	local work=$cache/tmp/kernel package
	can_fetch
	mkdir -p "$work" "$cache/kernel"
	package=$(or_update kernel_package | tail -n 1)
	(cd "$work" && or_update apt-get -o APT::Sandbox::User=root download "$package")
	unpack "$work" "$work/tree"
	chmod 0644 "$work"/tree/boot/vmlinuz-*
	rm -rf "$cache/kernel/modules"
	mv -T "$(find "$work/tree" -path '*lib/modules' -type d)" "$cache/kernel/modules"
	mv -T "$work"/tree/boot/vmlinuz-* "$cache/kernel/vmlinuz"
}

# kernel_package prints the package that linux-image-cloud-amd64 stands for.
kernel_package() {
	apt-cache depends linux-image-cloud-amd64 |
		awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; found = 1 } END { exit !found }'
}

# have_qemu VERSION: it starts, and is that version.
have_qemu() {
	[[ $("$cache/qemu/$1/qemu-system-x86_64" --version) == "QEMU emulator version $1 "* ]]
}

# link_qemu VERSION: the installed one; another of bookworm's if that is not VERSION.
link_qemu() {
	mkdir -p "$cache/qemu/$1"
	ln -sfn /usr/bin/qemu-system-x86_64 "$cache/qemu/$1/qemu-system-x86_64"
	have_qemu "$1" || unpack_qemu "$1" bookworm "1:7.2+*"
}

# unpack_qemu VERSION SUITE [DEBIAN_VERSION]: QEMU and its libraries, as a tree of
# their own that runs through its own loader.
unpack_qemu() {
	local version=$1 suite=$2 work=$cache/tmp/qemu-$1 final=$cache/qemu/$1 all new
	all=$work/all new=$work/new
	fetch "$work" "$suite" closure "qemu-system-x86=${3:-1:$version+*}"
	unpack "$work/archives" "$all"
	# What QEMU reads, and no set-uid program of another release.
	mkdir -p "$new/tree/usr"/{bin,lib,share}
	mv "$all/usr/bin/qemu-system-x86_64" "$new/tree/usr/bin/"
	mv "$all/usr/lib/x86_64-linux-gnu" "$new/tree/usr/lib/"
	mv "$all/usr/share"/{qemu,seabios} "$new/tree/usr/share/"
	# Newer releases have the network cards' ROMs in share/qemu.
	if [[ -d $all/usr/lib/ipxe ]]; then mv "$all/usr/lib/ipxe" "$new/tree/usr/lib/"; fi
	qemu_wrapper "$final/tree" >"$new/qemu-system-x86_64"
	chmod 0755 "$new/qemu-system-x86_64"
	rm -rf "$final"
	mkdir -p "$cache/qemu"
	mv -T "$new" "$final"
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
