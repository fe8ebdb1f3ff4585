# Sets the scene for the guide, in a mount and a pid namespace, and becomes the shell that its commands are typed into.
# CACHE has the QEMUs, PROGRAM is qlive, IMAGE the disk of the guest.
set -eu
umask 022
for dir in /run /mnt /srv /opt /root /var/log /var/lib; do mount -t tmpfs -o mode=755 none "$dir"; done
for dir in /etc/qlive; do
	if [[ -e $dir ]]; then mount -t tmpfs -o mode=755 none "$dir"; fi
done

# A /usr/bin that can be changed: links to the host's, and a QEMU of its own.
mkdir /opt/.bin /opt/.new
mount --bind /usr/bin /opt/.bin
mount -t tmpfs -o mode=755 none /opt/.new
ln -s /opt/.bin/* /opt/.new/
rm -f /opt/.new/{qemu-system-x86_64,qlive,apt}
cp -L "$CACHE/qemu/7.2.22/qemu-system-x86_64" "$PROGRAM" /opt/.new/
cat >/opt/.new/apt <<-END
	#!/bin/sh
	# As dpkg does it: the new file takes the old one's place in one step.
	test "\$*" = "install -t bookworm-backports qemu-system-x86" || exit 1
	cp "$CACHE/qemu/10.0.2/qemu-system-x86_64" /usr/bin/qemu-system-x86_64.new
	mv /usr/bin/qemu-system-x86_64.new /usr/bin/qemu-system-x86_64
	echo "Setting up qemu-system-x86"
END
chmod 755 /opt/.new/apt
mount --move /opt/.new /usr/bin

# QEMUs beside the installed one. Debian's own has to be told where its modules and firmware are.
mkdir -p /opt/qemu-{7.2,11}/bin
cat >/opt/qemu-7.2/bin/qemu-system-x86_64 <<-END
	#!/bin/sh
	export QEMU_MODULE_DIR=/usr/lib/x86_64-linux-gnu/qemu
	exec /opt/.qemu-7.2 -L /usr/share/qemu -L /usr/share/seabios "\$@"
END
cp -L "$CACHE/qemu/7.2.22/qemu-system-x86_64" /opt/.qemu-7.2
cp -L "$CACHE/qemu/11.1.3/qemu-system-x86_64" /opt/qemu-11/bin/
chmod 755 /opt/qemu-*/bin/*
cp "$IMAGE" /srv/vm1.img
# Linux and small guests run the same way with and without KVM; a KVM that is itself emulated is slower than none.
if [[ -e /dev/kvm ]]; then mount --bind /dev/null /dev/kvm; fi
cd /root
exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 bash --norc --noprofile
