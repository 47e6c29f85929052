#!/usr/bin/env bash
# Installs from Debian what the demo and the tests need, and nothing that is there.
set -euo pipefail

declare -A package=(
	[qemu-system-x86_64]=qemu-system-x86
	[qemu-img]=qemu-utils
	[nft]=nftables
	[iptables]=iptables
	[ipset]=ipset # for kube-proxy in make bench-dataplane
	[ip]=iproute2
	[nsenter]=util-linux
	[pgrep]=procps
	[dnsperf]=dnsperf # for make bench-dns
	[gcc]=gcc # for the race detector
	[vtysh]=frr # routers for the tests of BGP
	[birdc]=bird2 # likewise
)
missing=()
for program in "${!package[@]}"; do
	command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

echo "==> installing ${missing[*]}"
if [ "$(id -u)" != 0 ]; then
	echo "run as root, or install them yourself: apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null
