#!/usr/bin/env bash
# Train for so many seconds of a GPU, then go on from what is in OUT when there is one again; see docs/gpu.md:
# bash benchmarks/gpu_train.sh OUT SECONDS DATA TRANSLATION [--flag-of-train_accelerate VALUE ...]
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: bash benchmarks/gpu_train.sh OUT SECONDS DATA TRANSLATION [FLAGS]" >&2; exit 2; }
for folder in "$3" "$4"; do
    [ -d "$folder" ] || { echo "gpu_train.sh: $folder: no such folder" >&2; exit 2; }
done
mkdir -p "$1"
places=("$(realpath "$1")" "$2" "$(realpath "$3")" "$(realpath "$4")")
. "$(dirname "$0")/gpu_environment.sh"
"$PYTHON" -m benchmarks.gpu_train "$work/run" "${places[@]}" "${@:5}"
