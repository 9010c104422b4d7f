#!/usr/bin/env bash
# cargo deny: licences, sources and the fences between crates. The advisory database lies on
# GitHub; where that cannot be reached, the advisories are skipped, and this says so.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
  printf '\033[1mdeny:\033[0m installing cargo-deny\n' >&2
  cargo install --quiet --locked cargo-deny
fi
cargo deny --locked check --hide-inclusion-graph bans licenses sources
if ! timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
  echo "SKIPPED advisories: the advisory database cannot be reached from here" >&2
  exit
fi
cargo deny --locked --offline check advisories
