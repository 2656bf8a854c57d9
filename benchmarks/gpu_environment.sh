# Read by gpu.sh and gpu_train.sh: the package need not be installed, and what is not to be kept lies in $work.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$PWD" "$work/gram"
export PYTHON=${PYTHON:-python3}
export PYTHONPATH="$work${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
