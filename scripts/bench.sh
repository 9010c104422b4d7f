#!/usr/bin/env bash
# `make bench`: measure and print Markdown tables; README.md has the same.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh test
# Peers of the containers.
[ "$(id -u)" != 0 ] || { command -v crun && command -v runc; } >/dev/null \
  || apt-get -qq install -y --no-install-recommends crun runc >/dev/null || true
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
# One selection for all, so that nothing is built twice with other features.
packages=(-p eyot -p eyot-edge -p eyot-runtime-wasm -p eyot-runtime-oci -p eyot-apiserver -p eyot-control)
examples=target/release/examples
printf '\033[1mbench:\033[0m building the released program\n' >&2
cargo build --release --locked "${packages[@]}" --bins --examples
cargo bench --quiet --locked "${packages[@]}" --bench system -- "$@"
printf '\n'
printf '\033[1mbench:\033[0m an instance of a Wasm component, beside the bare engine\n' >&2
"$examples/bench-wasm" examples/target/wasm32-wasip2/release/hello_web.wasm
printf '\n'
if [ "$(id -u)" = 0 ]; then
  printf '\033[1mbench:\033[0m the life of a container, beside crun and runc\n' >&2
  "$examples/bench-runtime-oci"
  printf '\n'
fi
[ "$(id -u)" != 0 ] || command -v etcd >/dev/null || apt-get -qq install -y --no-install-recommends etcd-server >/dev/null || true
printf '\033[1mbench:\033[0m the API over HTTPS, beside etcd where there is one\n' >&2
"$examples/bench-apiserver"
printf '\n'
printf '\033[1mbench:\033[0m the scheduler and the controllers on many nodes\n' >&2
"$examples/bench-control"
