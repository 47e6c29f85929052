#!/usr/bin/env bash
# Gets other kubectls than the built-in one, for `make test-kubectl`: the oldest that
# Debian still has, and one built from the sources of Kubernetes. Nothing is installed
# on the machine: both land in .cache/kubectl. Prints their paths.
set -euo pipefail
cd "$(dirname "$0")/.."
version=v1.36.3
cache=$PWD/.cache/kubectl
mkdir -p "$cache"

if [ ! -x "$cache/debian" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	# apt would fetch as a user of its own, who can't write there.
	(cd "$work" && apt-get -qq -o APT::Sandbox::User=root download kubernetes-client) >&2
	dpkg -x "$work"/kubernetes-client_*.deb "$work/tree"
	mv "$work/tree/usr/bin/kubectl" "$cache/debian"
fi

# k8s.io/kubernetes replaces its staging modules by folders that its module doesn't
# contain; another module can require it if it replaces them by their releases.
if [ ! -x "$cache/$version" ]; then
	echo "==> building kubectl $version (the first time takes minutes)" >&2
	build=$cache/build
	mkdir -p "$build"
	(
		cd "$build"
		rm -f go.mod go.sum
		go mod init build.portico.dev/kubectl 2>/dev/null
		source=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
		awk '$2 == "=>" && $3 ~ "^./staging/src/" {print $1}' "$source" | while read -r module; do
			go mod edit -replace "$module=$module@${version/#v1/v0}"
		done
		go mod edit -require "k8s.io/kubernetes@$version"
		flags=
		for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
			flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=36"
		done
		nice -n 19 go build -mod=mod -trimpath -ldflags "-s -w$flags" -o "$cache/$version" k8s.io/kubernetes/cmd/kubectl >&2
	)
	rm -rf "$build"
fi
echo "$cache/debian"
echo "$cache/$version"
