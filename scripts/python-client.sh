#!/usr/bin/env bash
# Print the path of a Python that has the official Kubernetes client and that of the ORAS project,
# making one under target/tools if there is none. Nothing is installed into the system.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${PYTHON_CLIENT:-}" ]; then echo "$PYTHON_CLIENT"; exit; fi
home=$PWD/target/tools/python-client
has_client() { "$1" -c 'import kubernetes.stream, oras.client' 2>/dev/null; }
if ! has_client "$home/bin/python"; then
  printf 'python-client: fetching the clients of Kubernetes and ORAS from PyPI\n' >&2
  mkdir -p "$(dirname "$home")"
  python3 -m venv "$home" >&2
  "$home/bin/pip" --quiet --disable-pip-version-check install 'kubernetes>=33,<38' 'oras>=0.2,<0.3' >&2
  has_client "$home/bin/python"
fi
echo "$home/bin/python"
