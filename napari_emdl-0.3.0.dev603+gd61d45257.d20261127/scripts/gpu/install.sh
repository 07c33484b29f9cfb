#!/usr/bin/env bash
# On the machine with the GPU: installs the wheels that travelled. `install.sh keep` only puts the part in .whl/turn aside.
set -eu
kept=/tmp/emdl-wheel
mkdir -p "$kept"
if [ -d .whl/turn ] && [ -n "$(ls .whl/turn)" ]; then cp .whl/turn/part.* "$kept/"; fi
[ "${1:-}" = keep ] && { ls -l "$kept"; exit 0; }
pip="python3 -m pip install --no-index --no-deps --quiet --break-system-packages"
$pip .whl/small/*.whl
name=$(cat .whl/small/large-name)
if ls "$kept"/part.* >/dev/null 2>&1; then
  cat "$kept"/part.* > "/tmp/$name"
  python3 -m pip uninstall --yes --quiet --break-system-packages onnxruntime || true
  $pip --force-reinstall "/tmp/$name"
else
  echo "no parts of onnxruntime-gpu: the sessions run on the CPU" >&2
fi
