#!/usr/bin/env bash
# Fetches the wheels that a machine without a network lacks into .whl (ignored by git) and cuts the large one into parts that fit
# beside the repository in one transfer. Run it at the root of the repository that travels.
set -eu
python=${PYTHON:-python3}
limit_mib=${LIMIT_MIB:-64}
fetch() {
  "$python" -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
    --platform manylinux2014_x86_64 --platform any -d "$1" "${@:2}"
}
mkdir -p .whl/small .whl/parts .whl/large
pydantic=$("$python" -c 'import pydantic; print(pydantic.VERSION)')
core=$("$python" -c 'import pydantic_core; print(pydantic_core.__version__)')
fetch .whl/small "pydantic==$pydantic" "pydantic-core==$core" annotated-types typing-inspection
fetch .whl/large onnxruntime-gpu
tree_kib=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -ck | tail -1 | cut -f1)
part_mib=$(( limit_mib - tree_kib / 1024 - 4 ))
[ "$part_mib" -ge 8 ] || { echo "the repository leaves no room for a part: ${tree_kib} KiB of ${limit_mib} MiB" >&2; exit 1; }
rm -f .whl/parts/*
split -b "${part_mib}M" -d .whl/large/onnxruntime_gpu-*.whl .whl/parts/part.
basename .whl/large/onnxruntime_gpu-*.whl > .whl/small/large-name
mkdir -p .whl/turn
echo "parts of $part_mib MiB:"; ls .whl/parts
