#!/usr/bin/env bash
# Print the path of a Python that has what the drivers are tested against (pymodbus, asyncua, an ONVIF
# camera) and of what makes up requests from OpenAPI documents, making one under target/tools if there is
# none. Nothing is installed into the system.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -n "${DEVICE_PEERS:-}" ]; then echo "$DEVICE_PEERS"; exit; fi
home=$PWD/target/tools/device-peers
has_all() { "$1" -c 'import pymodbus.server, serial, asyncua, ipycam.onvif, cv2, schemathesis' 2>/dev/null; }
if ! has_all "$home/bin/python"; then
  printf 'device-peers: fetching pymodbus, asyncua, ipycam and schemathesis from PyPI\n' >&2
  mkdir -p "$(dirname "$home")"
  python3 -m venv "$home" >&2
  pip() { "$home/bin/pip" --quiet --disable-pip-version-check install "$@" >&2; }
  pip 'pymodbus>=3.10,<4' pyserial 'asyncua>=1.1,<2' 'numpy>=1.24' 'opencv-python-headless>=4.8'
  # Pinned: another version makes up other requests from the same seed.
  pip 'schemathesis==4.32.5' 'hypothesis==6.170.17'
  # It asks for the variant of OpenCV that has windows.
  pip --no-deps 'ipycam>=1.3,<2'
  has_all "$home/bin/python"
fi
echo "$home/bin/python"
