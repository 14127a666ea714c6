# weir: `make demo` shows it, `make test` checks it. Each target installs what it lacks and says so.
# On Debian 12, as root, with Rust; elsewhere it says what to install.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto

# A lab waits more than it works, but some have spamd (170 MiB): a few at a time, however many cores there are.
LABS_AT_A_TIME := $(shell cores=$$(nproc); echo $$(( cores > 1 ? 4 : 2 )))

.PHONY: help bench bench-quick build deb demo faults lint test tested profile test-all test-kernels measure-prefixes measure-events measure-steering measure-verdicts bench-outbreak check fuzz clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## target/release/weir-agent and target/release/weir-filter
	@scripts/install-deps build
	@scripts/install-bpf-toolchain
	cargo build --release --locked

demo: build ## shows weir at work, step by step, in a lab of network namespaces (needs root)
	@scripts/install-deps lab
	@"$${CARGO_TARGET_DIR:-target}/release/weir-demo"

check: lint ## format, lints, licences and banned crates
	cargo test --release --locked --package weir-tests --test dependencies

lint:
	cargo fmt --all --check
	@scripts/install-deps build
	@scripts/install-bpf-toolchain
	cargo clippy --release --locked --workspace --all-targets --exclude weir-ebpf -- -D warnings

# What is downloaded is downloaded while the compiler works. All is compiled at once, as the tests want it: programs for themselves,
# with the features that they alone need, would be compiled a second time.
tested:
	@scripts/install-deps build
	@scripts/install-bpf-toolchain
	@set -m; { scripts/install-deps tests && scripts/install-kernels 5.10; } & installing=$$!; \
	    set +m; trap 'kill -- -$$installing 2>/dev/null; exit 130' INT TERM; \
	    $(MAKE) --no-print-directory lint && cargo build --release --locked --all-targets; compiled=$$?; \
	    wait $$installing || { echo "what the tests need is not installed: see above" >&2; exit 1; }; exit $$compiled

test: tested ## everything that must hold before a commit (needs root)
	RUST_TEST_THREADS=$(LABS_AT_A_TIME) cargo test --release --locked

test-all: tested ## as `test`, with all 2,000 messages of the corpus, all of docs/interop.md, which it writes, and Debian 13
	@scripts/install-deps debian-13
	WEIR_CORPUS=2000 WEIR_INTEROP=all RUST_TEST_THREADS=$(LABS_AT_A_TIME) cargo test --release --locked
	WEIR_DEBIAN=debian-13 cargo test --release --locked --package weir-tests --test scenarios packages::

test-kernels: build ## the tests of steering on Linux 5.10, 6.1, 6.12 and this machine's; writes docs/kernels.md (needs root)
	@scripts/install-deps lab
	@scripts/install-kernels
	"$${CARGO_TARGET_DIR:-target}/release/weir-kernels" run --write

measure-prefixes: ## what ten, 100,000 and a million customers' prefixes cost in the kernel (needs root)
	@scripts/install-deps build
	@scripts/install-bpf-toolchain
	cargo test --release --locked --package weir-agent --lib -- --ignored --nocapture measurement::prefixes

EVENTS ?= 10000000
measure-events: ## what EVENTS=10000000 events cost: to write, on disk, and to search (gigabytes below target/, for a while)
	@scripts/install-deps build
	EVENTS=$(EVENTS) cargo test --release --locked --package weir-filter --lib -- --ignored --nocapture events::measurement

measure-steering: build ## what steering costs a packet and a connection: nothing, ebpf and tproxy side by side (needs root)
	@"$${CARGO_TARGET_DIR:-target}/release/weir-measure"

measure-verdicts: ## what a verdict of a filter node costs, and a million counted keys (2 minutes)
	@scripts/install-deps build
	cargo test --release --locked --package weir-filter --lib -- --ignored --nocapture --test-threads 1 serve::measurement

bench-outbreak: ## how much of campaigns the outbreak engine sees, and how little of what programs send (2 minutes)
	@scripts/install-deps build
	cargo test --release --locked --package weir-filter --test outbreak -- --ignored --nocapture measure

bench: build ## weir beside haproxy, nginx, proxsmtpd and no proxy at all; writes docs/performance.md (needs root, 25 minutes)
	@scripts/install-deps lab
	@"$${CARGO_TARGET_DIR:-target}/release/weir-bench" run --write

bench-quick: build ## a part of that, in three minutes, and nothing written (needs root)
	@scripts/install-deps lab
	@"$${CARGO_TARGET_DIR:-target}/release/weir-bench" run --quick

profile: build ## flame graphs of agent and filter nodes, and what a message takes, in docs/performance (needs root, five minutes)
	@scripts/install-deps lab
	@scripts/install-deps profile
	@PATH="$${CARGO_TARGET_DIR:-target}/tools/bin:$$PATH"; for part in agent nodes; do for size in 4 100; do \
	    "$${CARGO_TARGET_DIR:-target}/release/weir-bench" profile --part $$part --cell "$$size KiB, 10 connections, one" \
	        --to docs/performance/flame-$$part-$$size-kib.svg || exit; \
	done; done; "$${CARGO_TARGET_DIR:-target}/release/weir-bench" count --to docs/performance/counts.md

deb: build ## packages of weir-agent and weir-filter for Debian 12, in dist/
	@scripts/install-deps deb
	@scripts/build-packages

MESSAGES ?= 100000
faults: build ## MESSAGES=100000 through weir while everything that can fail does, and whether the laws held (needs root)
	@"$${CARGO_TARGET_DIR:-target}/release/weir-faults" run --messages $(MESSAGES)

MINUTES ?= 10
fuzz: ## fuzzes every parser and the engine for MINUTES=10 minutes in all, and grows fuzz/corpus
	@scripts/install-deps build
	@scripts/install-bpf-toolchain
	@scripts/fuzz $(MINUTES)

clean: ## removes everything that was built or unpacked
	rm -rf "$${CARGO_TARGET_DIR:-target}"
