#!/usr/bin/env bash
# What one GPU can tell in nine minutes: bash benchmarks/gpu.sh OUT [DATA TRANSLATION]; see docs/gpu.md.
#
# Every figure is a line of OUT/figures.jsonl as soon as it is known; what the steps say is in OUT/gpu.log. A step that
# fails or is too slow stops none of the others. Without CUDA, or with GPU_TOY=1, it is a rehearsal at toy size.
set -uo pipefail
[ $# = 1 ] || [ $# = 3 ] || { echo "usage: bash benchmarks/gpu.sh OUT [DATA TRANSLATION]" >&2; exit 2; }
mkdir -p "$1" && out=$(realpath "$1") || exit
inputs=()
for folder in "${@:2}"; do
    [ -d "$folder" ] || { echo "gpu.sh: $folder: no such folder" >&2; exit 2; }
    inputs+=("$(realpath "$folder")")
done
. "$(dirname "$0")/gpu_environment.sh"

rm -f "$out/figures.jsonl"
: >"$out/gpu.log"
while read -r limit step; do  # in all 530 seconds; on a slow machine GPU_PATIENCE=3 gives each step three times as much
    limit=$((limit * ${GPU_PATIENCE:-1}))
    echo "$step: at most $limit seconds"
    timeout --kill-after=1 "$limit" "$PYTHON" -m benchmarks.gpu "$step" "$out" "$work" "${inputs[@]}" </dev/null >>"$out/gpu.log" 2>&1
    "$PYTHON" -m benchmarks.gpu "$step" "$out" "$work" --ended "$?" </dev/null
done <<STEPS
30 data
120 tests
75 training
110 compiled
75 search
75 static
45 processes
STEPS
echo "figures: $out/figures.jsonl"
