#!/usr/bin/env bash
# Everything that `make test` runs: the pure and crate tests, the guests, and the whole-system
# suite with real clients in a network namespace of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\033[1mtest:\033[0m %s\n' "$*" >&2; }
scripts/setup.sh test
KUBECTL=$(scripts/kubectl.sh); export KUBECTL
PYTHON_CLIENT=$(scripts/python-client.sh) && export PYTHON_CLIENT || say "no Python client: its cases are skipped"
DEVICE_PEERS=$(scripts/device-peers.sh) && export DEVICE_PEERS || say "no peers from PyPI: their cases are skipped"
[ -n "${EYOT_SHARED:-}" ] || say "EYOT_SHARED is not set: tests on recorded data are skipped"
scripts/guests.sh
mkdir -p target
guests=target/test-guests.log
say "the guests' own tests, on this machine (the log is $guests)"
if ! cargo test --locked --no-fail-fast --manifest-path examples/Cargo.toml >"$guests" 2>&1; then
  say "failed:"
  grep -nE '^error|FAILED|panicked at' "$guests" | head -40 >&2
  exit 1
fi
grep '^test result' "$guests"
log=target/test.log
say "building and running all tests (the log is $log)"
# To a file, not to a pipe: what a test might leave running would keep a pipe open, and this waiting.
cargo test --workspace --locked --no-fail-fast -- --nocapture >"$log" 2>&1 &
tests=$!
tail -n +1 -s 0.2 -f --pid=$tests "$log" |
  grep -E --line-buffered '^(test |test result|running|error|warning: unused|failures:|SKIPPED|     Running|   Doc-tests|thread .* panicked)|^---- ' &
shown=$!
status=0; wait "$tests" || status=$?
wait "$shown" || true
say "skipped:"
grep -oE 'SKIPPED .*' "$log" | sort -u | sed 's/^/  /' >&2 || echo "  nothing" >&2
if [ "$status" != 0 ]; then
  say "failed (the whole log is $log):"
  grep -nE 'FAILED|panicked at' "$log" | head -40 >&2
  # What each failed case said, as the harness repeats it at the end of its suite.
  awk '/^failures:$/ { on = 1; next } /^test result:/ { on = 0 } on' "$log" |
    cut -c1-400 | head -200 >&2
  exit "$status"
fi
say "all passed"
