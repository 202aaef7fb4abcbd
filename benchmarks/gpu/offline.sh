#!/usr/bin/env bash
# The check on a machine with a GPU and no network, in the repository's root, where .gpu/ of prepare.sh lies:
#
#     bash benchmarks/gpu/offline.sh [STAGE...] [OPTION...]     # as `python -m benchmarks.gpu`
#     bash benchmarks/gpu/offline.sh --receive                  # only unpack, and keep the parts of a model that are here
#
# What was received stays in $GPU_CHECK_SITE: a later call needs only the parts of the model that have not come yet.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=${GPU_CHECK_SITE:-/tmp/gpu-check-site}
mkdir -p "$site/model"

unpack() {
  [ -e "$site/$1.done" ] && return
  "$python" -c "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')" \
    ".gpu/archives/$1.tar.xz" "$site/$1"
  touch "$site/$1.done"
}
pids=()
for name in common native unsloth; do unpack $name & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid"; done
for part in .gpu/model-*/part; do
  [ -e "$part" ] || continue
  number=$(basename "$(dirname "$part")")
  cp "$part" "$site/model/$number"
  cp "$(dirname "$part")/whole" "$site/model/whole"
done
[ ! -d .gpu/data ] || cp -r .gpu/data "$site/"
if [ -e "$site/model/whole" ] && [ ! -e "$site/model.gguf" ]; then
  read -r count wanted < "$site/model/whole"
  if [ "$(find "$site/model" -name 'model-*' | wc -l)" = "$count" ]; then
    cat "$site"/model/model-* > "$site/model.gguf"
    [ "$(sha256sum < "$site/model.gguf" | cut -d' ' -f1)" = "$wanted" ] || { rm "$site/model.gguf"; echo "the model's parts are damaged"; exit 1; }
  fi
fi
[ "${1:-}" != --receive ] || { ls -l "$site" "$site/model"; exit 0; }
ours=$PWD/crds/src:$PWD/trainer/src:$PWD
export PYTHONPATH=$site/native:$site/common:$ours
export GPU_CHECK_SITE_UNSLOTH=$site/unsloth:$site/common:$ours
real=()
[ ! -e "$site/model.gguf" ] || real+=(--model "$site/model.gguf")
[ ! -d "$site/data" ] || real+=(--data "$site/data")
exec "$python" -m benchmarks.gpu ${OUT:+--out "$OUT"} "${real[@]}" "$@"
