#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that only a GPU can show, in under ten minutes: `benchmarks/gpu.sh OUT` writes logs and JSON into OUT.
# It goes on after a failure, so that one session brings back all there is; the last line says what failed.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT}
python=${PYTHON:-python3}
export PYTHONPATH=toolkit${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
failed=()

step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1 || failed+=("$name")
    tail -n 5 "$out/$name.log"
}

nvidia-smi >"$out/nvidia-smi.txt" 2>&1
step doctor 60 "$python" -m gantk doctor --json "$out/doctor.json"
step tests 180 "$python" -m pytest -m gpu -p no:cacheprovider tests
step training 120 "$python" -m gantk demo --out "$out/demo" --steps 300 --json "$out/demo.json"
step dcgan64 240 "$python" benchmarks/run.py dcgan64 --device cuda --budget 30 --output "$out/dcgan64-cuda.json"
rm -rf "$out/demo/pictures"
echo "failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
