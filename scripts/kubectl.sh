#!/usr/bin/env bash
# Print the path of a kubectl to use, 1.33 or newer, fetching one if there is none.
#
# Order: $KUBECTL, one fetched earlier, the one on PATH if new enough, else Debian's package of
# the unstable suite: downloaded and verified by apt in a private state directory, unpacked under
# target/tools. Nothing is installed into the system.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'kubectl: %s\n' "$*" >&2; }

new_enough() { # PROGRAM
  local minor
  minor=$("$1" version --client 2>/dev/null | sed -n 's/^Client Version: v1\.\([0-9]*\).*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge 33 ]
}

if [ -n "${KUBECTL:-}" ]; then echo "$KUBECTL"; exit; fi
tools=$PWD/target/tools
if [ -x "$tools/kubectl" ]; then echo "$tools/kubectl"; exit; fi
if command -v kubectl >/dev/null && new_enough kubectl; then command -v kubectl; exit; fi

if command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
  mkdir -p "$tools"; work=$(mktemp -d "$tools/apt.XXXXXX"); trap 'rm -rf "$work"' EXIT
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security |
    sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  printf 'Types: deb\nURIs: %s\nSuites: sid\nComponents: main\nSigned-By: %s\n' "$mirror" \
    /usr/share/keyrings/debian-archive-keyring.gpg >"$work/sid.sources"
  private() {
    apt-get -q -o Dir::Etc::SourceList="$work/sid.sources" -o Dir::Etc::SourceParts=- \
      -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
      -o Dir::State::status=/dev/null -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
  }
  say "fetching kubectl from Debian unstable"
  if private update >"$work/log" 2>&1 && (cd "$work" && private download kubectl >>log 2>&1); then
    dpkg-deb --fsys-tarfile "$work"/kubectl_*.deb | tar -x -C "$work" --wildcards './usr/bin/kubectl'
    mv "$work/usr/bin/kubectl" "$tools/kubectl"
    echo "$tools/kubectl"; exit
  fi
  say "not to be had: $(tail -1 "$work/log")"
fi
if command -v kubectl >/dev/null; then
  say "using the older $(kubectl version --client 2>/dev/null | head -1)"
  command -v kubectl; exit
fi
say "no kubectl: install one, or set KUBECTL=/path/to/kubectl"
exit 1
