# `make run` shows functions answering, `make test` runs every tier. Each installs what it needs and is missing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
CACHE := $(CURDIR)/.cache
export NOVA_ARTIFACTS ?= $(CACHE)/artifacts
# `sudo` where it is needed and there.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# What building and running need, `nova setup` and `nova runtime add` included.
PACKAGES := gcc libc6-dev pkg-config runc nftables iproute2 erofs-utils e2fsprogs curl ca-certificates \
	xz-utils debian-archive-keyring python3-pip
# What the tests and the emulated machine need besides.
TEST_PACKAGES := make procps mmdebstrap qemu-system-x86 openssh-client openssh-server bubblewrap cmake g++ \
	docker-registry skopeo umoci busybox-static
NEXTEST_VERSION := 0.9.143

.PHONY: build build-linux deps deps-test images run test soak bench lint deny fuzz deploy clean

# Installs what is missing of the packages in $(1). No service that comes with one is started: the tests
# need the program sshd, not an SSH server that listens to the world.
define install
@installed=$$(dpkg-query -W -f='$${db:Status-Abbrev} $${Package}\n' $(1) 2>/dev/null || true); \
missing=$$(awk '$$1 == "ii" {print $$2}' <<< "$$installed" | sort | comm -13 - <(printf '%s\n' $(1) | sort)); \
if [ -n "$$missing" ]; then \
	echo "installing" $$missing; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then \
		trap "$(SUDO) rm -f $$policy" EXIT; \
		printf '#!/bin/sh\nexit 101\n' | $(SUDO) install -m 755 /dev/stdin $$policy; \
	fi; \
	$(SUDO) apt-get update -qq; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	if grep -qx openssh-server <<< "$$missing"; then $(SUDO) update-rc.d ssh disable >/dev/null; fi; \
	if grep -qx docker-registry <<< "$$missing"; then $(SUDO) update-rc.d docker-registry disable >/dev/null; fi; \
fi
endef

deps: ## what building and running need, from the distribution
	$(call install,$(PACKAGES))

deps-test: deps ## what the tests need besides
	$(call install,$(TEST_PACKAGES))
	@command -v npm >/dev/null || $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends npm >/dev/null
	@command -v cargo-nextest >/dev/null || cargo install --locked --version $(NEXTEST_VERSION) cargo-nextest

build: deps ## bin/nova and bin/nova-agent
	@started=$$SECONDS; cargo build --release --locked -p nova; \
	mkdir -p bin; install -m 755 $(TARGET_DIR)/release/nova bin/nova.new; mv bin/nova.new bin/nova; \
	bin/nova agent-binary bin/nova-agent; \
	echo "built bin/nova and bin/nova-agent ($$((SECONDS - started)) s)"

build-linux: build ## the same: Nova runs on Linux only, and the binary needs only glibc

# The newest kernel is taken only where `nova setup` says that the pinned one is gone from the mirror; after
# any other failure the pin stays.
images: build ## guest kernel, Firecracker, and the first runtime images
	@said=$$(mktemp); trap 'rm -f "$$said"' EXIT; \
	if ! { bin/nova setup --data-dir $(CACHE) 2>&1 >&3 | tee "$$said" >&2; } 3>&1; then \
		grep -q -e 'nova setup --latest-kernel' "$$said" || exit 1; \
		echo "trying again with the newest kernel of the distribution"; \
		bin/nova setup --latest-kernel --data-dir $(CACHE); \
	fi
	@bin/nova runtime add --data-dir $(CACHE) base python node

ifeq ($(TESTBED),1)
run: deps-test
endif
run: images ## three functions answer; ONCE=1 in a temporary place, TESTBED=1 on real Firecracker
ifeq ($(TESTBED),1)
	@testbed/run -- examples/run --running
else ifeq ($(ONCE),1)
	@examples/run --once
else
	@examples/run
endif

test: deps-test images ## every tier
	@e2e/run

soak: deps-test images ## long and repeated; results are kept in docs/soak.md
	@e2e/soak

bench: images ## BENCHMARKS, results in docs/benchmarks.md
	@bench/run

lint: deps
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --locked -- -D warnings

deny: ## licences, bans and sources of the dependencies
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	@cargo deny check bans licenses sources

fuzz: deps ## hostile bytes at the protocol's reader, for FUZZ_SECONDS=60; needs g++ and `rustup toolchain install nightly`
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@cd crates/nova-proto && cargo +nightly fuzz run stream -- -max_total_time=$(or $(FUZZ_SECONDS),60)

deploy: ## copies bin/nova to SERVER=user@host over ssh; restarts nova.service if it runs there
	@[ -n "$(SERVER)" ] || { echo "make deploy SERVER=user@host: which server?" >&2; exit 2; }
	@$(MAKE) --no-print-directory build
	@deploy/push $(SERVER)

clean: ## what builds made; functions and keys in .nova/ stay. The daemon of `make run` must be stopped first
	@if [ -f .nova/daemon.pid ] && ! flock --nonblock .nova/daemon.pid true; then \
		echo "a daemon runs from .nova/: stop it with 'kill $$(head -n 1 .nova/daemon.pid)' first" >&2; exit 1; fi
	@cargo clean
	@rm -rf bin .cache
