# Debian packages: installed with the machine's own apt, or fetched with a private one
# whose state lies in the cache, so that the machine's sources stay as they are.
# shellcheck shell=bash

# needs PURPOSE prints, a line each, the files that must exist and their packages.
needs() {
	cat <<-END
		/usr/bin/qemu-system-x86_64 qemu-system-x86
		/usr/share/OVMF/OVMF_CODE_4M.fd ovmf
		/usr/share/OVMF/OVMF_VARS_4M.fd ovmf
		/usr/bin/curl curl
		/usr/bin/git git
		/etc/ssl/certs/ca-certificates.crt ca-certificates
	END
	if [[ $1 == test ]]; then # the race detector links with the first two
		echo "/usr/bin/gcc gcc"
		echo "/usr/include/stdlib.h libc6-dev"
		echo "/usr/bin/systemd-analyze systemd" # checks the units; it need not run
		echo "/usr/bin/setpriv util-linux"
	fi
}

# absent PURPOSE prints those lines of needs whose file does not exist.
absent() {
	local file package
	needs "$1" | while read -r file package; do
		if [[ ! -e $file ]]; then echo "$file $package"; fi
	done
}

have_packages() { [[ -z $(absent "$1") ]]; }

# can_fetch fails, saying why, where packages cannot be installed or unpacked.
can_fetch() {
	local host
	host=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") || host=unknown
	if [[ $host != "debian 12" ]]; then
		echo "this is not Debian 12 but: $host"
	elif [[ $(dpkg --print-architecture) != amd64 ]]; then
		echo "this is not amd64 but: $(dpkg --print-architecture)"
	elif ((EUID != 0)); then
		echo "installing needs root: run make with sudo"
	else
		return 0
	fi
	return 1
}

# or_update COMMAND...: old package lists often serve; new ones are fetched if not.
or_update() { "$@" || { apt-get update && "$@"; }; }

install_packages() {
	local packages
	can_fetch
	mapfile -t packages < <(absent "$1" | cut -d ' ' -f 2)
	export DEBIAN_FRONTEND=noninteractive
	or_update apt-get install -y --no-install-recommends "${packages[@]}" 9>&-
}

# debian_mirror prints the address of the Debian archive that this machine uses.
debian_mirror() {
	# shellcheck disable=SC2016 # apt's own placeholder
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' |
		awk 'NR == 1 { print; found = 1 } END { exit !found }'
}

# fetch DIR SUITE VERB PACKAGE...: .deb files in DIR/archives. VERB is `download` (the
# packages alone) or `closure` (and all that they depend on, libc included).
fetch() {
	local dir=$1 suite=$2 verb=$3 mirror each
	shift 3
	can_fetch
	mirror=$(or_update debian_mirror | tail -n 1)
	mkdir -p "$dir"/{lists/partial,archives/partial}
	: >"$dir/status" # nothing is installed: dependencies are never thought to be met
	for each in ${suite%-backports} $suite; do
		echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $each main"
	done | sort -u >"$dir/sources.list"
	# The machine's apt.conf is read before this, for the sake of its proxies.
	cat >"$dir/apt.conf" <<-END
		Dir::State "$dir";
		Dir::State::status "$dir/status";
		Dir::Cache "$dir";
		Dir::Cache::archives "$dir/archives";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		#clear APT::Update::Post-Invoke;
		APT::Update::Error-Mode "any";
		APT::Default-Release "$suite";
		APT::Sandbox::User "root";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Acquire::Retries "1";
		Acquire::http::Timeout "15";
	END
	apt-get -c "$dir/apt.conf" update
	case $verb in
	closure) apt-get -c "$dir/apt.conf" install -y --no-install-recommends --download-only "$@" ;;
	download) (cd "$dir/archives" && apt-get -c "$dir/apt.conf" download "$@") ;;
	esac
}

# unpack ARCHIVES TREE: all .deb files of a folder, /lib and /usr/lib in one.
unpack() {
	local deb
	mkdir -p "$2/usr/lib"
	ln -s usr/lib "$2/lib"
	for deb in "$1"/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$2"
	done
}
