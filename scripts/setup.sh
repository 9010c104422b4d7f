#!/usr/bin/env bash
# Make this machine able to build, demonstrate or test Eyot. Says what it does; running it again
# does nothing.
#
# usage: scripts/setup.sh build|demo|test
set -euo pipefail
purpose=${1:?usage: scripts/setup.sh build|demo|test}
say() { printf '\033[1msetup:\033[0m %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs"

if ! [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip2/lib" ]; then
  command -v rustup >/dev/null || die "add the Rust target wasm32-wasip2 for your toolchain"
  say "adding the Rust target wasm32-wasip2"
  rustup target add wasm32-wasip2
fi

packages=(pkg-config libseccomp-dev gcc)
case $purpose in
  build) ;;
  demo) packages+=(curl iproute2 nftables busybox-static) ;;
  test) packages+=(curl iproute2 nftables busybox-static umoci skopeo buildah mosquitto mosquitto-clients openssl socat snmp snmpd python3-venv postgresql) ;;
  *) die "unknown purpose '$purpose': build, demo or test" ;;
esac
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || die "install what provides: ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "as root, run: apt-get install ${missing[*]}"
  say "installing ${missing[*]}"
  # The tests start servers of their own: the packages need not make and start any.
  if [[ " ${missing[*]} " == *" snmpd "* || " ${missing[*]} " == *" mosquitto "* ]] && ! [ -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  if [[ " ${missing[*]} " == *" postgresql "* ]] && ! [ -e /etc/postgresql-common/createcluster.conf ]; then
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
  fi
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
fi
