# A host with a systemd of its own: in mount, pid, UTS and cgroup namespaces, where the paths of a host are the scene's, a manager of
# the kind that systemd runs for each user reads the shipped units and starts the daemon. What it does with a service is what the system's
# does. It becomes the shell that commands are typed into.
#
# DIR is empty and everybody's to remove, UNITS has the units, PROGRAM is qlive,
# CGROUP the name of a cgroup of the scene's own.
set -eu
umask 022
if [[ ${1:-} != inside ]]; then
	mount -t tmpfs -o mode=755 none /mnt
	umount -R /sys/fs/cgroup 2>/dev/null || true
	mount -t cgroup2 none /sys/fs/cgroup
	mkdir "/sys/fs/cgroup/$CGROUP"
	echo $$ >"/sys/fs/cgroup/$CGROUP/cgroup.procs"
	exec unshare --cgroup bash "$0" inside
fi
umount /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs -o mode=755 none /run
if [[ -e /etc/qlive ]]; then mount -t tmpfs -o mode=755 none /etc/qlive; fi
cd "$DIR"
mkdir bin
cp "$PROGRAM" bin/qlive
cp /etc/group group
echo qlive:x:64999: >>group
mount --bind group /etc/group

export PATH="$DIR/bin:$PATH" HOME="$DIR" XDG_RUNTIME_DIR=/run XDG_CONFIG_HOME="$DIR/config" XDG_DATA_HOME="$DIR/data"
mkdir -p /run/systemd/system config/systemd/user/qlive.service.d # the first one says that systemd runs here
cp "$UNITS"/qlive.{service,socket} config/systemd/user/
sed -i "s|/usr/bin/qlive|$DIR/bin/qlive|" config/systemd/user/qlive.service
cat >config/systemd/user/qlive.service.d/test.conf <<-END
	[Service]
	Environment=QLIVE_STATE_DIR=$DIR/state
	StandardError=append:$DIR/qlive.log
	# A score that anybody may give.
	OOMScoreAdjust=100
END
env -u NOTIFY_SOCKET SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --user --unit=basic.target >systemd.log 2>&1 &
until systemctl --user is-active --quiet basic.target 2>/dev/null; do kill -0 $!; sleep 0.02; done
exec bash --norc --noprofile
