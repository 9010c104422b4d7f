# The commands of the project. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
export CARGO_TERM_COLOR ?= auto

.PHONY: help build demo test fuzz fuzz-guided soak bench check fmt lint doc deny clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

build: ## Build the program (target/release/eyot)
	scripts/setup.sh build
	cargo build --release --locked -p eyot

demo: ## Build and run the main job: a PLC's readings reach MQTT through Wasm guests
	@examples/demo.sh

test: ## Run all tests
	@scripts/test.sh

fuzz: ## Try the parsers with many made inputs (EYOT_FUZZ_ROUNDS each; a million takes about ten minutes)
	EYOT_FUZZ_ROUNDS=$${EYOT_FUZZ_ROUNDS:-1000000} cargo test --locked -p eyot-apiserver --lib fuzz -- --nocapture

fuzz-guided: ## Fuzz one parser by what its inputs reach (needs cargo-fuzz and a nightly toolchain): TARGET=json TIME=60
	@cp Cargo.lock fuzz/Cargo.lock
	@cargo run --quiet --manifest-path fuzz/Cargo.toml --bin corpus -- fuzz
	cargo +nightly fuzz run $${TARGET:-json} -- -max_total_time=$${TIME:-60} -max_len=4096

soak: ## Let pods and Services come and go for ten minutes (EYOT_SOAK_SECONDS), and count what is left
	scripts/setup.sh test
	scripts/guests.sh
	KUBECTL=$$(scripts/kubectl.sh) EYOT_SOAK_SECONDS=$${EYOT_SOAK_SECONDS:-600} \
	  cargo test --release --locked -p eyot --test system -- soak:: --nocapture

bench: ## Measure and print ratios against the peers
	@scripts/bench.sh

check: fmt lint doc deny ## Formatting, clippy, docs and cargo deny

fmt:
	cargo fmt --all --check
	cargo fmt --all --check --manifest-path examples/Cargo.toml

lint:
	scripts/setup.sh build
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --quiet --release --locked --manifest-path examples/Cargo.toml --target wasm32-wasip2 -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items

deny:
	scripts/deny.sh

clean: ## Remove what was built
	cargo clean
	rm -rf examples/target
