# Debian packages: installed with the machine's own apt, or fetched with a private
# one whose state lives in the cache, so that the machine's sources stay as they are.
# shellcheck shell=bash

packages() {
	echo qemu-system-x86 ovmf curl git ca-certificates
	if [[ $1 == test ]]; then echo gcc libc6-dev; fi
}

absent_packages() {
	local package
	for package in $(packages "$1"); do
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "$package"
	done
}

have_packages() { [[ -z $(absent_packages "$1") ]]; }

install_packages() {
	local absent
	mapfile -t absent < <(absent_packages "$1")
	export DEBIAN_FRONTEND=noninteractive
	# Lists a few days old are often good enough; fetch new ones only if they are not.
	# Descriptor 9 is the lock: nothing that a package starts may keep it.
	apt-get install -y --no-install-recommends "${absent[@]}" 9>&- ||
		{ apt-get update && apt-get install -y --no-install-recommends "${absent[@]}"; } 9>&-
}

# debian_mirror prints the address of the Debian archive this machine is set to use.
debian_mirror() {
	local mirror
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Release: bookworm' | head -n 1)
	if [[ -z $mirror ]]; then
		apt-get update
		mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Release: bookworm' | head -n 1)
	fi
	[[ -n $mirror ]] || { echo "cannot find the Debian mirror among the apt sources" >&2; return 1; }
	echo "$mirror"
}

# fetch_closure DIR SUITES PACKAGE: leaves PACKAGE and all that it depends on as .deb
# files in DIR/archives. The last of SUITES is preferred.
fetch_closure() {
	local dir=$1 suites=$2 package=$3 mirror suite
	mirror=$(debian_mirror)
	mkdir -p "$dir"/{state/lists/partial,archives/partial}
	: >"$dir/status"
	for suite in $suites; do
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
	done >"$dir/sources.list"
	cat >"$dir/apt.conf" <<-END
		Dir::State "$dir/state";
		Dir::State::status "$dir/status";
		Dir::Cache "$dir";
		Dir::Cache::archives "$dir/archives";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		APT::Sandbox::User "root";
		APT::Default-Release "${suites##* }";
		#clear APT::Update::Post-Invoke;
	END
	apt-get -c "$dir/apt.conf" update
	apt-get -c "$dir/apt.conf" install -y --no-install-recommends --download-only "$package"
}
