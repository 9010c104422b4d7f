#!/usr/bin/env bash
# Make an OCI layout directory of a small container image: busybox and one script. By hand, from
# the OCI image specification, so that nothing else is needed than busybox-static.
#
# usage: scripts/container-image.sh DIRECTORY
set -euo pipefail
layout=${1:?usage: scripts/container-image.sh DIRECTORY}
busybox=$(command -v busybox) || { echo "busybox is missing: install busybox-static" >&2; exit 1; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

mkdir -p "$work/root"/{bin,etc,tmp}
cp "$busybox" "$work/root/bin/busybox"
for tool in sh echo cat sleep date uname id ls ps nc head dd env hostname true false kill mkdir tar; do
  ln -s busybox "$work/root/bin/$tool"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$work/root/etc/passwd"
cat >"$work/root/bin/hello" <<'SCRIPT'
#!/bin/sh
trap 'echo "goodbye"; exit 0' TERM
echo "hello from a container: $(uname -sm), $(hostname), pid $$, ${GREETING:-no greeting}"
n=0
while true; do n=$((n + 1)); echo "tick $n"; sleep 1 & wait $!; done
SCRIPT
chmod 755 "$work/root/bin/hello"

rm -rf "$layout"; mkdir -p "$layout/blobs/sha256"
put() { # FILE: store it as a blob, print its digest
  local digest; digest=$(sha256sum "$1" | cut -d' ' -f1)
  mv "$1" "$layout/blobs/sha256/$digest"; echo "$digest"
}
size() { stat -c %s "$layout/blobs/sha256/$1"; }

tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work/root" -cf "$work/layer.tar" .
diff_id=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
gzip -n -9 "$work/layer.tar"
layer=$(put "$work/layer.tar.gz")
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/hello"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')" "$diff_id" >"$work/config.json"
config=$(put "$work/config.json")
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}]}' \
  "$config" "$(size "$config")" "$layer" "$(size "$layer")" >"$work/manifest.json"
manifest=$(put "$work/manifest.json")
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"org.opencontainers.image.ref.name":"v1"}}]}' \
  "$manifest" "$(size "$manifest")" >"$layout/index.json"
