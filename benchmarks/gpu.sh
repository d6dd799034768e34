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

# The kernels' own tests under a checker of NVIDIA's, which comes with the CUDA toolkit.
sanitize() { # TOOL SECONDS
    if ! command -v compute-sanitizer >/dev/null; then
        echo "== $1: skipped, compute-sanitizer is not on the PATH" | tee "$out/$1.log"
        return
    fi
    step "$1" "$2" compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all \
        "$python" -m pytest -m gpu -p no:cacheprovider -x -k "not large" tests/kernels
}

nvidia-smi >"$out/nvidia-smi.txt" 2>&1
step doctor 20 "$python" -m gantk doctor --json "$out/doctor.json"
step tests 120 "$python" -m pytest -m gpu -p no:cacheprovider tests
step kernels 150 "$python" benchmarks/kernels/run.py --budget 110 --output "$out/kernels.json"
step training 60 "$python" -m gantk demo --out "$out/demo" --steps 300 --json "$out/demo.json"
step dcgan64 120 "$python" benchmarks/run.py dcgan64 --device cuda --budget 15 --output "$out/dcgan64-cuda.json"
sanitize memcheck 50
sanitize racecheck 45
sanitize synccheck 35
rm -rf "$out/demo/pictures"
echo "failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
