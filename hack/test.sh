#!/usr/bin/env bash
# Runs the tests: the packages under the race detector, then the suites that work on
# kernels, programs and guests, one after the other, as they would disturb each
# other's clocks. With "long", the same with PORTICO_LONG set, at which tests take
# more rounds, and more fuzzing.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = long ]; then
	export PORTICO_LONG=1
	for fuzz in $(grep -rlE '^func Fuzz' --include='*_test.go' internal | xargs -n1 dirname | sort -u); do
		for name in $(grep -hoE '^func (Fuzz[A-Za-z0-9_]+)' "$fuzz"/*_test.go | awk '{print $2}'); do
			echo "==> fuzzing $fuzz $name"
			go test "./$fuzz" -run '^$' -fuzz "^$name\$" -fuzztime 60s
		done
	done
fi

echo "==> packages, with the race detector"
CGO_ENABLED=1 go test -race -timeout 10m ./cmd/... ./internal/...
echo "==> suites"
go test -p 1 -timeout 10m ./test/...
# The cache of results does not see these variables.
PORTICO_TEST_DATAPLANE=userspace go test -count=1 -timeout 10m ./test/dataplane
PORTICO_TEST_DATAPLANE=iptables PORTICO_TEST_IPTABLES=nft go test -count=1 -timeout 10m ./test/dataplane
PORTICO_TEST_DATAPLANE=iptables PORTICO_TEST_IPTABLES=legacy go test -count=1 -timeout 5m -run 'TestPaths|TestAffinity$|TestGoneBackend|TestUDPFlows|TestRefuse|TestSourceRanges' ./test/dataplane
# In a guest, whatever this kernel can do.
PORTICO_LONG= PORTICO_TEST_RUN=short go test -count=1 -timeout 10m ./test/ipvs
if [ "${1:-}" = long ]; then
	PORTICO_TEST_RUN=. go test -count=1 -timeout 90m ./test/ipvs
fi
echo "==> the benchmarks' programs run"
(cd bench && PORTICO=$PWD/../bin/portico go test -p 1 -timeout 10m ./...)
