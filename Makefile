# Portico. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The Kubernetes API that is served is that of the k8s.io modules: v0.37.2 -> v1.37.2.
KUBE_VERSION := $(shell sed -n 's|^\tk8s.io/api v0\.|v1.|p' go.mod)
KUBE_MINOR := $(word 2,$(subst ., ,$(KUBE_VERSION)))
VERSION_PKG := k8s.io/component-base/version
# Without cgo the binary is static: it needs no C library, and the linker leaves out what
# nobody calls (with it, package plugin, which kubectl's kustomize imports, keeps all). Tests
# use the same, but for the race detector, so that packages are compiled once for both.
export CGO_ENABLED := 0
LDFLAGS := -s -w \
	-X $(VERSION_PKG).gitVersion=$(KUBE_VERSION) \
	-X $(VERSION_PKG).gitMajor=1 -X $(VERSION_PKG).gitMinor=$(KUBE_MINOR)
GO_FILES := $(shell find . -name '*.go' -not -path './.cache/*' -not -path './bench/*')

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: bin/portico ## Build bin/portico

bin/portico: go.mod go.sum $(GO_FILES)
	@echo "==> building bin/portico (the first time takes minutes)"
	@go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/portico

.PHONY: guest
guest: .cache/guest.tar ## Make the guest image of the demo and the tests

.cache/guest.tar: $(wildcard test/guest/*.go test/guest/*/*.go)
	@echo "==> making the guest image from Debian's kernel package"
	@mkdir -p .cache
	go run ./test/guest/build -o $@

.PHONY: deps
deps: ## Install what tests and the demo need, from Debian
	@./hack/deps.sh

.PHONY: demo
demo: deps build guest ## Expose a virtual machine by a Service; KEEP=1 leaves it running
	@go build -o .cache/demo ./test/demo
	@.cache/demo -portico bin/portico -guest .cache/guest.tar $(if $(KEEP),-keep)

.PHONY: demo-lb
demo-lb: deps build guest ## The same by a load balancer's address on three nodes, of which one is lost
	@go build -o .cache/demo ./test/demo
	@.cache/demo -lb -portico bin/portico -guest .cache/guest.tar

.PHONY: rig-shell
rig-shell: ## A shell in the network of the tests; HOST=node-a elsewhere, SERVICES=FILE.yaml with others
	@go build -o .cache/rig-shell ./test/rig/shell
	@HOST=$(HOST) .cache/rig-shell $(SERVICES)

.PHONY: test
test: deps lint build ## Run all tests but the long ones
	@./hack/test.sh

.PHONY: test-kubectl
test-kubectl: deps ## Run kubectl's scripts with an old and with a new kubectl
	@clients=$$(./hack/kubectl.sh); for client in $$clients; do \
		echo "==> kubectl's scripts with $$client"; \
		KUBECTL=$$client go test -count=1 -timeout 10m -run '^TestKubectl$$' ./test/api; \
	done

.PHONY: test-long
test-long: deps test-kubectl ## Run the tests that take long
	@./hack/test.sh long

# Measurements, which take what else runs on the machine into their figures. Peers are
# built once, outside the tree: that takes a quarter of an hour on two processors.
PEER_VERSION := $(shell sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\).*|\1|p' bench/peer/go.mod)
PEERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portico-bench/$(PEER_VERSION)

.PHONY: bench-api
bench-api: build $(if $(filter short,$(BENCH)),,$(PEERS)/etcd $(PEERS)/kube-apiserver) ## Compare with kube-apiserver; BENCH=short: one small round of ours
	@cd bench && go build -o ../.cache/bench-api ./api
	@.cache/bench-api -portico bin/portico -out bench/out/api.json $(if $(filter short,$(BENCH)),-short,-etcd $(PEERS)/etcd -kube-apiserver $(PEERS)/kube-apiserver) $(BENCHFLAGS)

.PHONY: bench-api-profile
bench-api-profile: build ## Profiles of our API server under the same load, into .cache/profiles
	@cd bench && go build -o ../.cache/bench-api ./api
	@.cache/bench-api -portico bin/portico -profile .cache/profiles $(BENCHFLAGS)

.PHONY: bench-dataplane
bench-dataplane: deps build $(if $(filter short,$(BENCH)),,$(PEERS)/kube-proxy) ## Compare with kube-proxy, as root; BENCH=short: few Services, ours only
	@cd bench && CGO_ENABLED=0 go build -o ../.cache/bench-dataplane ./dataplane
	@go build -o .cache/build-guest ./test/guest/build
	@.cache/bench-dataplane -portico bin/portico $(if $(filter short,$(BENCH)),-short,-out bench/out/dataplane.json -kube-proxy $(PEERS)/kube-proxy \
		-guest-builder .cache/build-guest) $(BENCHFLAGS)

COREDNS_VERSION := $(shell sed -n 's|^require github.com/coredns/coredns \(v[0-9.]*\)$$|\1|p;s|^\tgithub.com/coredns/coredns \(v[0-9.]*\)$$|\1|p' bench/coredns/go.mod)
COREDNS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portico-bench/coredns-$(COREDNS_VERSION)/coredns

.PHONY: bench-dns
bench-dns: deps build $(if $(filter short,$(BENCH)),,$(COREDNS)) ## Compare with CoreDNS, and bench-slices; BENCH=short: few Services, ours only
	@cd bench && go build -o ../.cache/bench-dns ./dns
	@.cache/bench-dns -portico bin/portico $(if $(filter short,$(BENCH)),-short,-out bench/out/dns.json -coredns $(COREDNS)) $(BENCHFLAGS)
	@$(MAKE) --no-print-directory bench-slices BENCHFLAGS="$(SLICESFLAGS)"

.PHONY: bench-slices
bench-slices: build $(if $(filter short,$(BENCH)),,$(PEERS)/etcd $(PEERS)/kube-apiserver $(PEERS)/kube-controller-manager) ## How soon slices follow, beside kube-controller-manager; BENCH=short: ours only
	@cd bench && go build -o ../.cache/bench-slices ./slices
	@go test -run '^$$' -bench ThousandServices -count $(if $(filter short,$(BENCH)),1,5) ./internal/core/endpoints > .cache/bench-endpoints.txt
	@.cache/bench-slices -portico bin/portico -compute .cache/bench-endpoints.txt $(if $(filter short,$(BENCH)),-short,-out bench/out/dns.json \
		-etcd $(PEERS)/etcd -kube-apiserver $(PEERS)/kube-apiserver -kube-controller-manager $(PEERS)/kube-controller-manager) $(BENCHFLAGS)

METALLB_VERSION := $(shell sed -n 's|^\tgo.universe.tf/metallb \(v[0-9.]*\).*|\1|p' bench/metallb/go.mod)
METALLB := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portico-bench/metallb-$(METALLB_VERSION)/speaker

.PHONY: bench-failover
bench-failover: deps build $(if $(filter short,$(BENCH)),,$(METALLB)) ## Lose nodes that have addresses, beside MetalLB's speaker, as root; BENCH=short: few losses, ours only
	@cd bench && go build -o ../.cache/bench-failover ./failover
	@.cache/bench-failover -portico bin/portico $(if $(filter short,$(BENCH)),-short,-out bench/out/failover.json -speaker $(METALLB)) $(BENCHFLAGS)

$(METALLB): bench/metallb/go.mod
	@echo "==> building MetalLB's speaker $(METALLB_VERSION)"
	@mkdir -p $(dir $@)
	@cd bench/metallb && CGO_ENABLED=0 nice -n 19 go build -trimpath -ldflags '-s -w' -o $@ go.universe.tf/metallb/speaker

$(COREDNS): bench/coredns/go.mod bench/coredns/main.go
	@echo "==> building CoreDNS $(COREDNS_VERSION)"
	@mkdir -p $(dir $@)
	@cd bench/coredns && CGO_ENABLED=0 nice -n 19 go build -trimpath -ldflags '-s -w' -o $@ .

$(PEERS)/etcd: bench/peer/go.mod
	@echo "==> building the peer's etcd"
	@mkdir -p $(PEERS)
	@cd bench/peer && CGO_ENABLED=0 nice -n 19 go build -trimpath -ldflags '-s -w' -o $@ go.etcd.io/etcd/server/v3

# A line of its own: a shell keeps what make's lines are joined by where it is quoted.
PEER_STAMP = -X $(VERSION_PKG).gitVersion=$(PEER_VERSION) \
	-X $(VERSION_PKG).gitMajor=$(word 1,$(subst ., ,$(PEER_VERSION:v%=%))) -X $(VERSION_PKG).gitMinor=$(word 2,$(subst ., ,$(PEER_VERSION)))

# kube-apiserver, kube-controller-manager and kube-proxy
$(PEERS)/kube-%: bench/peer/go.mod
	@echo "==> building kube-$* $(PEER_VERSION)"
	@mkdir -p $(PEERS)
	@cd bench/peer && CGO_ENABLED=0 nice -n 19 go build -trimpath -o $@ -ldflags '-s -w $(PEER_STAMP)' k8s.io/kubernetes/cmd/kube-$*

.PHONY: lint
lint: ## Check format and run the linters
	@echo "==> gofumpt, vet, staticcheck"
	@files=$$(go tool gofumpt -l cmd internal test bench | grep -v zz_generated || true); test -z "$$files" || { echo "run make fmt: $$files"; exit 1; }
	@go vet ./... && cd bench && go vet ./...
	@go tool staticcheck ./...

.PHONY: fmt
fmt: ## Format the sources
	go tool gofumpt -w cmd internal test bench

.PHONY: generate
generate: ## Make generated files anew
	go generate ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .cache
