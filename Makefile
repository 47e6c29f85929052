# Portico. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# The Kubernetes API that is served is that of the k8s.io modules: v0.37.2 -> v1.37.2.
KUBE_VERSION := $(shell sed -n 's|^\tk8s.io/api v0\.|v1.|p' go.mod)
KUBE_MINOR := $(word 2,$(subst ., ,$(KUBE_VERSION)))
VERSION_PKG := k8s.io/component-base/version
LDFLAGS := -s -w \
	-X $(VERSION_PKG).gitVersion=$(KUBE_VERSION) \
	-X $(VERSION_PKG).gitMajor=1 -X $(VERSION_PKG).gitMinor=$(KUBE_MINOR)
GO_FILES := $(shell find . -name '*.go' -not -path './.cache/*')

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

.PHONY: test
test: deps lint ## Run all tests but the long ones
	@./hack/test.sh

.PHONY: test-long
test-long: deps ## Run the tests that take long
	@./hack/test.sh long

.PHONY: lint
lint: ## Check format and run the linters
	@echo "==> gofumpt, vet, staticcheck"
	@files=$$(go tool gofumpt -l cmd internal test | grep -v zz_generated || true); test -z "$$files" || { echo "run make fmt: $$files"; exit 1; }
	@go vet ./...
	@go tool staticcheck ./...

.PHONY: fmt
fmt: ## Format the sources
	go tool gofumpt -w cmd internal test

.PHONY: generate
generate: ## Make generated files anew
	go generate ./...

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .cache
