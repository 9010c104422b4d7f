#!/usr/bin/env bash
# `make demo`: build Eyot, start it, and show the main job: a simulated PLC's readings reach MQTT
# through Wasm guests, beside a container and a Wasm web service, all applied with kubectl.
#
# Everything is kept under target/demo and on loopback; Ctrl-C ends it all. DEMO_ONCE=1 ends by
# itself when everything was shown.
set -euo pipefail
cd "$(dirname "$0")/.."
SECONDS=0
say() { printf '\n\033[1m[%3ds] %s\033[0m\n' "$SECONDS" "$*"; }
die() { printf '\033[1mdemo:\033[0m %s\n' "$*" >&2; exit 1; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

scripts/setup.sh demo
KUBECTL_PROGRAM=$(scripts/kubectl.sh)
say "building the program, the simulated PLC and the guests (the first time takes some minutes)"
cargo build --release --locked -p eyot -p eyot-plc
scripts/guests.sh

eyot=$PWD/target/release/eyot
data=$PWD/target/demo
guests=examples/target/wasm32-wasip2/release
mkdir -p "$data"; rm -rf "$data"; mkdir -p "$data"
export KUBECONFIG=$data/kubeconfig
kubectl() { "$KUBECTL_PROGRAM" "$@"; }

processes=()
finish() {
  trap - EXIT INT TERM
  say "ending"
  for pid in "${processes[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${processes[@]}"; do wait "$pid" 2>/dev/null || true; done
  # Containers go on without the host; the demo leaves nothing running.
  "$eyot" reset --data-dir "$data" --node-name island >>"$data/eyot.log" 2>&1 || true
  exit "${1:-0}"
}
trap 'finish $?' EXIT
trap 'finish 0' INT TERM

say "starting the host (log: target/demo/eyot.log) and the PLC"
"$eyot" up --data-dir "$data" --node-name island >"$data/eyot.log" 2>&1 &
host=$!; processes+=("$host")
target/release/eyot-plc --listen 127.0.0.1:1502 >"$data/plc.log" 2>&1 &
plc=$!; processes+=("$plc")
until [ -s "$KUBECONFIG" ] && kubectl get --raw /readyz >/dev/null 2>&1; do
  kill -0 "$host" 2>/dev/null || { tail -3 "$data/eyot.log"; die "the host did not start"; }
  kill -0 "$plc" 2>/dev/null || { tail -3 "$data/plc.log"; die "the PLC did not start"; }
  sleep 0.1
done
until kubectl get nodes 2>/dev/null | grep -qw Ready; do sleep 0.1; done
show kubectl get nodes

say "pushing the images"
for pair in modbus_driver:modbus-driver filter_step:filter json_step:json mqtt_exporter:mqtt-exporter \
  hello_web:hello-web hello_cli:hello-cli; do
  show "$eyot" push "demo/${pair#*:}:v1" "$guests/${pair%:*}.wasm"
done
containers=no
if [ "$(id -u)" = 0 ] && command -v busybox >/dev/null; then
  containers=yes
  scripts/container-image.sh "$data/layout"
  show "$eyot" push demo/hello-container:v1 "$data/layout"
fi

say "applying examples/manifests"
for manifest in examples/manifests/*.yaml; do
  [ "$containers" = yes ] || [ "$manifest" != examples/manifests/container.yaml ] || continue
  show kubectl apply -f "$manifest"
done
kubectl wait --for=condition=Available deployment --all --timeout=120s >/dev/null
show kubectl get pods -o wide

say "the Wasm web service answers"
pod_ip=$(kubectl get pods -l app=hello-web -o 'jsonpath={.items[0].status.podIP}')
show curl -sS -m 10 "http://$pod_ip:8080/"

if [ "$containers" = yes ]; then
  say "the container's log"
  show kubectl logs deployment/hello-container --tail=3
else
  say "no containers: they need root and busybox-static"
fi

say "readings of the PLC on MQTT, through driver, two steps and exporter"
show "$eyot" subscribe 'demo/readings/#' -n 5
show kubectl get devices,pipelines

say "a write command changes a holding register"
show curl -sS -m 10 -X PUT -H 'Content-Type: application/json' -d '{"Setpoint":"215"}' \
  http://127.0.0.1:59882/api/v3/device/name/plc-1/Setpoint
echo
show curl -sS -m 10 http://127.0.0.1:59882/api/v3/device/name/plc-1/Setpoint
echo

say "it runs. In another terminal, try:"
cat <<TEXT
  export KUBECONFIG=$KUBECONFIG
  $KUBECTL_PROGRAM get pods,devices,pipelines
  $KUBECTL_PROGRAM scale deployment hello-web --replicas=20
  $eyot subscribe 'edgex/events/device/#'
TEXT
[ -z "${DEMO_ONCE:-}" ] || finish 0
echo "Ctrl-C ends it."
wait "$host" || true
tail -3 "$data/eyot.log"
die "the host ended by itself"
