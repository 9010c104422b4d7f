#!/usr/bin/env bash
# `make bench`: measure and print a Markdown table; the same table stands in README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh test
[ "$(id -u)" != 0 ] || dpkg-query -W crun >/dev/null 2>&1 || apt-get -qq install -y crun >/dev/null || true
# Peers of the Ingress. For `wasmtime serve`: cargo install wasmtime-cli, of the version in Cargo.lock.
[ "$(id -u)" != 0 ] || command -v wrk >/dev/null || apt-get -qq install -y --no-install-recommends wrk >/dev/null || true
if ! command -v nginx >/dev/null; then
  # Unpacked, not installed: the package would start a server on port 80.
  mkdir -p target/tools
  (cd target/tools && [ -x nginx/usr/sbin/nginx ] || { apt-get -qq download nginx && dpkg -x nginx_*.deb nginx; }) || true
  export PATH="$PATH:$PWD/target/tools/nginx/usr/sbin"
fi
KUBECTL=$(scripts/kubectl.sh); export KUBECTL
scripts/guests.sh
printf '\033[1mbench:\033[0m building the released program\n' >&2
cargo bench --quiet --locked -p eyot --bench system
printf '\n'
printf '\033[1mbench:\033[0m an instance of a Wasm component, beside the bare engine\n' >&2
cargo run --quiet --release --locked -p eyot-runtime-wasm --example bench-wasm -- \
  examples/target/wasm32-wasip2/release/hello_web.wasm
printf '\n'
[ "$(id -u)" != 0 ] || command -v etcd >/dev/null || apt-get -qq install -y --no-install-recommends etcd-server >/dev/null || true
printf '\033[1mbench:\033[0m the API over HTTPS, beside etcd where there is one\n' >&2
cargo run --quiet --release --locked -p eyot-apiserver --example bench-apiserver
printf '\n'
printf '\033[1mbench:\033[0m the scheduler and the controllers on many nodes\n' >&2
cargo run --quiet --release --locked -p eyot-control --example bench-control
