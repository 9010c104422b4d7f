#!/usr/bin/env bash
# Build the guests under examples/ for wasm32-wasip2 and the demo's container image.
set -euo pipefail
cd "$(dirname "$0")/.."
printf '\033[1mguests:\033[0m building examples/ for wasm32-wasip2\n' >&2
cargo build --quiet --release --locked --manifest-path examples/Cargo.toml --target wasm32-wasip2
