# What docs/operations.md promises, step by step, under a systemd. Typed into the scene's shell; the last word is
# `done`. IMAGE is the guest's disk, QEMU its binary; what the guest wrote goes to CONSOLE.
set -eu
systemctl() { command systemctl --user "$@"; }
property() { systemctl show qlive --property="$1" --value; }
fail() {
	echo "FAILED: $*"
	systemctl status --no-pager qlive qlive.socket
	tail -n 40 systemd.log qlive.log
	exit 1
}
is() { [[ $2 == "$3" ]] || fail "$1 is $2, not $3"; }
soon() {
	local i
	for ((i = 0; i < 1500; i++)); do
		if [[ $("${@:2:$#-2}" 2>/dev/null) == "${*: -1}" ]]; then return; fi
		sleep 0.02
	done
	fail "$1 is $("${@:2:$#-2}" 2>&1), not ${*: -1}"
}

# runs STORED RESTARTS: the guest is where it was, in the eyes of the host, and its RAM is stored.
runs() {
	qlive list >/dev/null # waits in the socket until a daemon answers
	soon "the guest's status" cat /mnt/qlive/vm1/status running
	is "the guest's process" "$(cat /mnt/qlive/vm1/pid)" "$pid"
	kill -0 "$pid" || fail "the guest's QEMU is gone"
	is "the number of stored descriptors" "$(property NFileDescriptorStore)" "$1"
	is "the number of restarts" "$(property NRestarts)" "$2"
}

echo "the start"
systemctl enable --now qlive.socket qlive.service 2>/dev/null
is "the service" "$(systemctl is-active qlive)" active
is "the socket" "$(stat -c '%a %U:%G' /run/qlive/qlive.sock)" "660 root:qlive"
is "the tree" "$(cat /mnt/qlive/health)" ok
is "the status line" "$(property StatusText)" serving

echo "a guest"
qlive run vm1 -- "$QEMU" -machine pc-q35-7.2,accel=tcg -m 64 -nodefaults -display none -drive file=$IMAGE,format=raw,if=ide -serial stdio 2>/dev/null
pid=$(cat /mnt/qlive/vm1/pid)
soon "what is stored" property NFileDescriptorStore 1
runs 1 0
is "the daemon's OOM score" "$(cat "/proc/$(property MainPID)/oom_score_adj")" 100
is "the guest's OOM score" "$(cat "/proc/$pid/oom_score_adj")" 0
[[ $(cat "/proc/$pid/cgroup") != *qlive.service* ]] || fail "the guest is in the daemon's cgroup: $(cat "/proc/$pid/cgroup")"

echo "a crash"
kill -KILL "$(property MainPID)"
runs 1 1

echo "a daemon that is stuck"
short=config/systemd/user/qlive.service.d/short.conf # nobody waits as long as the unit does
printf '[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n' >"$short"
systemctl daemon-reload
systemctl restart qlive
runs 1 0
kill -STOP "$(property MainPID)"
runs 1 1
rm "$short"
systemctl daemon-reload

echo "an upgrade"
cp "$PROGRAM" bin/qlive.new
mv bin/qlive.new bin/qlive
systemctl restart qlive
runs 1 0
is "the program that runs" "$(stat -Lc %i "/proc/$(property MainPID)/exe")" "$(stat -c %i bin/qlive)"

echo "a full stop"
systemctl stop qlive.socket qlive.service
is "the service" "$(systemctl is-active qlive || true)" inactive
is "what is stored" "$(property NFileDescriptorStore)" 0
kill -0 "$pid" || fail "the guest has ended with the daemon"
systemctl start qlive.socket # and nothing else: the request starts the service
runs 1 0

cat /mnt/qlive/vm1/console >"$CONSOLE"
qlive rm --force vm1 2>/dev/null
soon "what is stored" property NFileDescriptorStore 0
systemctl stop qlive.socket qlive.service
if kill -0 "$pid" 2>/dev/null; then fail "the guest's QEMU is left"; fi
echo done
