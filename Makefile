# `make demo` shows qlive at work, `make test` tests it; both install what they lack.

override QLIVE_CACHE := $(abspath $(or $(QLIVE_CACHE),.cache))
export QLIVE_CACHE
# A Go that set-up had to unpack comes before one that is too old.
export PATH := $(QLIVE_CACHE)/go/bin:$(PATH)

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 30s
TIMEOUT ?= 20m

# They look at the memory and the huge pages of the whole host: nothing else runs beside them.
ALONE := /integration/(demo|faces|start)(/|$$)

# They take longest, and are begun first: what is begun last, alone, keeps a processor idle.
LONG := /integration/(failures|soak)$$

.DEFAULT_GOAL := help
# The steps below share one machine, and the guests are timed.
.NOTPARALLEL:
.PHONY: help setup setup-demo build demo test lint drift unit fuzz-short integration kills soak fuzz bench generate clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install all that the tests need
	@scripts/setup test

setup-demo:
	@scripts/setup demo

build: ## the static binary bin/qlive
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/qlive ./cmd/qlive

demo: setup-demo build ## a running guest goes from one QEMU to the next and back
	bin/qlive demo

test: setup lint drift unit fuzz-short integration ## everything that can be tested here

lint: ## formatting, go vet, staticcheck
	@scripts/gofmt-check
	go vet ./...
	go tool staticcheck ./...

drift: ## generated files are what `make generate` makes
	@scripts/drift

unit: ## tests that need no guest, with the race detector
	CGO_ENABLED=1 go test -race $$(go list ./... | grep -v '^qlive/integration/')

integration: ## real QEMUs, real guests, real mounts
	go test -count=1 -p 3 -timeout $(TIMEOUT) $$(go list ./integration/... | grep -E '$(LONG)') $$(go list ./integration/... | grep -vE '$(ALONE)|$(LONG)')
	go test -count=1 -p 1 -timeout $(TIMEOUT) $$(go list ./integration/... | grep -E '$(ALONE)')

kills: ## every failpoint, every party killed and hung there; KILLS=cpr,… for a part
	KILLS=$(or $(KILLS),all) SEED=$(SEED) go test -count=1 -v -timeout 0 ./integration/kills

soak: ## N handoffs (2000) of random guests while everyone is killed; SEED=… FROM=… again
	N=$(or $(N),2000) SEED=$(SEED) FROM=$(FROM) SOAK=$(SOAK) go test -count=1 -v -timeout 0 -run TestSoak ./integration/soak

fuzz-short: ## each fuzz target on 5000 inputs
	@scripts/fuzz 5000x

fuzz: ## each fuzz target for FUZZTIME (30s)
	@scripts/fuzz $(FUZZTIME)

bench: setup build ## measure handoffs; docs/benchmarks.md explains the table
	bin/qlive bench

generate: ## write the generated files anew
	go generate ./...

clean: ## remove what was built; what set-up installed stays
	rm -rf bin
