# `make run` shows functions answering, `make test` runs every tier. Both install what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CACHE := $(CURDIR)/.cache
export NOVA_ARTIFACTS ?= $(CACHE)/artifacts
# `sudo` where it is needed and there.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PACKAGES := gcc libc6-dev make pkg-config runc nftables iproute2 procps mmdebstrap erofs-utils e2fsprogs \
	qemu-system-x86 openssh-client openssh-server curl ca-certificates debian-archive-keyring xz-utils python3-pip \
	bubblewrap

.PHONY: build build-linux deps images run test soak bench lint deny deploy clean

deps: ## what the other targets need, from the distribution
	@installed=$$(dpkg-query -W -f='$${db:Status-Abbrev} $${Package}\n' $(PACKAGES) 2>/dev/null || true); \
	missing=$$(awk '$$1 == "ii" {print $$2}' <<< "$$installed" | sort | comm -13 - <(printf '%s\n' $(PACKAGES) | sort)); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		$(SUDO) apt-get update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	fi
	@command -v npm >/dev/null || $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends npm >/dev/null
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest

build: deps ## bin/nova and bin/nova-agent
	@started=$$SECONDS; cargo build --release --locked -p nova; \
	mkdir -p bin; install -m 755 $(TARGET_DIR)/release/nova bin/nova.new; mv bin/nova.new bin/nova; \
	bin/nova agent-binary bin/nova-agent; \
	echo "built bin/nova and bin/nova-agent ($$((SECONDS - started)) s)"

build-linux: build ## the same: Nova runs on Linux only, and the binary needs only glibc

images: build ## guest kernel, Firecracker, and the first runtime images
	@bin/nova setup --data-dir $(CACHE) \
		|| { echo "trying again with the newest kernel of the distribution"; bin/nova setup --latest-kernel --data-dir $(CACHE); }
	@bin/nova runtime add --data-dir $(CACHE) base python node

run: images ## three functions answer; ONCE=1 in a temporary place, TESTBED=1 on real Firecracker
ifeq ($(TESTBED),1)
	@testbed/run -- examples/run
else ifeq ($(ONCE),1)
	@examples/run --once
else
	@examples/run
endif

test: images ## every tier
	@e2e/run

soak: images ## long and repeated; results in docs/soak.md
	@e2e/soak

bench: images ## BENCHMARKS, results in docs/benchmarks.md
	@bench/run

lint: deps
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings

deny: ## licences, bans and sources of the dependencies
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny check bans licenses sources

deploy: build ## copies bin/nova to SERVER=user@host over ssh; restarts nova.service if it runs there
	@deploy/push $(SERVER)

clean: ## what builds made; the daemon of `make run` must be stopped first
	@if [ -f .nova/daemon.pid ] && ! flock --nonblock .nova/daemon.pid true; then \
		echo "a daemon runs from .nova/: stop it with 'kill $$(head -n 1 .nova/daemon.pid)' first" >&2; exit 1; fi
	@cargo clean
	@rm -rf bin .cache .nova
