#!/usr/bin/env bash
# For a machine with a GPU and no network, but with Python 3.12, torch 2.11, transformers 5.17 and triton 3.6: packs what else
# the check needs into .gpu/, which git ignores. Run it on a machine with a network, in the repository's root:
#
#     bash benchmarks/gpu/prepare.sh [--model FILE.gguf] [--data FOLDER]
#
# .gpu/archives  common (bitsandbytes for CUDA 13.0, peft, boto3 with S3 alone, ...), native (transformers, trl and datasets of
#                constraints.txt), unsloth (Unsloth with its own trl and datasets; its transformers is the machine's)
# .gpu/model-N   the real model of the stage reft-real in parts, for a transfer that is limited to LIMIT_MIB
# .gpu/data      its rows
set -euo pipefail
cd "$(dirname "$0")/../.."
here=benchmarks/gpu
limit=${LIMIT_MIB:-64}
part=${PART_MIB:-32}
python=${PYTHON:-python3}
cache=${GPU_CHECK_WHEELS:-$HOME/.cache/gpu-check-wheels}
model="" data=""
while [ $# -gt 0 ]; do
  case $1 in
    --model) model=$2; shift 2 ;;
    --data) data=$2; shift 2 ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
rm -rf .gpu
mkdir -p .gpu/archives "$cache"

pinned() {  # FILE NAME...: NAME==VERSION of a file of pins
  local file=$1 name version; shift
  for name in "$@"; do
    version=$(sed -n "s/^$name==\([^ ;]*\).*/\1/p" "$file")
    [ -n "$version" ] || { echo "$file has no $name" >&2; exit 1; }
    echo "$name==$version"
  done
}
get() {  # NAME==VERSION...: wheels for Python 3.12 into the cache, each once
  local pin platforms=() name
  for name in manylinux_2_{34,31,28,27,24,17,12,5}_x86_64 manylinux2014_x86_64 manylinux1_x86_64; do
    platforms+=(--platform "$name")
  done
  for pin in "$@"; do
    name=${pin%%==*}
    find "$cache" -iname "${name//[-.]/_}-${pin##*==}-*.whl" -o -iname "$name-${pin##*==}-*.whl" | grep -q . && continue
    "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
      --implementation cp "${platforms[@]}" -d "$cache" "$pin"
  done
}
archive() {  # NAME PIN...
  local name=$1; shift
  get "$@"
  "$python" $here/pack.py "$cache" ".gpu/archives/$name.tar.xz" "$@"
}
common=(bitsandbytes peft pydantic pydantic-core annotated-types typing-inspection typing-extensions boto3 botocore s3transfer
  jmespath llguidance jsonschema jsonschema-specifications referencing rpds-py gguf dill multiprocess httpx)
grep -q '^liger-kernel==' constraints.txt && common+=(liger-kernel)
theirs=(unsloth unsloth-zoo trl datasets cut-cross-entropy tyro msgspec typeguard docstring-parser torchao nest-asyncio json5
  structlog hf-transfer)
mapfile -t pins < <(pinned constraints.txt "${common[@]}"); archive common "${pins[@]}"
mapfile -t pins < <(pinned constraints.txt transformers trl datasets); archive native "${pins[@]}"
mapfile -t pins < <(pinned trainer/requirements-unsloth.txt "${theirs[@]}"); archive unsloth "${pins[@]}"

if [ -n "$model" ]; then
  split -b "${part}M" --numeric-suffixes=1 -a 1 "$model" .gpu/part-
  count=$(find .gpu -name 'part-*' | wc -l)
  for file in .gpu/part-*; do
    mkdir ".gpu/model-${file##*-}"
    mv "$file" ".gpu/model-${file##*-}/part"
    echo "$count $(sha256sum < "$model" | cut -d' ' -f1)" > ".gpu/model-${file##*-}/whole"
  done
fi
if [ -n "$data" ]; then
  mkdir .gpu/data
  cp "$data"/svamp-train-*-cot.jsonl .gpu/data/
fi
bytes() { du -cb "$@" | awk 'END {print $1}'; }
tree=$(git ls-files -z --cached --others --exclude-standard | du -cb --files0-from=- | awk 'END {print $1}')
say() { awk -v bytes="$1" -v limit="$limit" -v what="$2" 'BEGIN {
  printf "%-40s %5.1f MiB of %d\n", what, bytes / 2^20, limit; exit bytes > limit * 2^20 }'; }
say "$((tree + $(bytes .gpu/archives)))" "tree and archives"
for folder in .gpu/model-*; do
  [ -d "$folder" ] && say "$((tree + $(bytes "$folder")))" "tree and $folder"
done
[ ! -d .gpu/model-1 ] || say "$((tree + $(bytes .gpu/archives .gpu/model-1)))" "tree, archives and .gpu/model-1"
