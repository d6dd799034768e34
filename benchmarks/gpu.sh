#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that only a GPU can show, in under ten minutes: `benchmarks/gpu.sh OUT` writes logs and JSON into OUT.
# What matters most comes first, and it goes on after a failure, so that a short session brings back what there is;
# the last line says what failed. Steps that only check run beside each other; those that time run alone.
# Gantk's operators take part where they are: pip install ./kernels, or GANTK_ONNXRUNTIME_OPS=LIBRARY.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT}
python=${PYTHON:-python3}
export PYTHONPATH=toolkit${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1 || echo "$name" >>"$out/failed"
    echo "== $name, $((SECONDS - began)) s"
    tail -n 5 "$out/$name.log"
}

suite() { # NAME SECONDS NETWORK
    step "$1" "$2" "$python" benchmarks/run.py "$1" --output "$out/$1.json" --bundle "$work/$3.gantk"
}

# The kernels' own tests under a checker of NVIDIA's, which comes with the CUDA toolkit. Errors of the API are left out:
# cuda-bindings asks the driver for functions that it may lack.
sanitize() { # TOOL SECONDS
    if ! command -v compute-sanitizer >/dev/null; then
        echo "== $1: skipped, compute-sanitizer is not on the PATH" | tee "$out/$1.log"
        return
    fi
    step "$1" "$2" compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 --target-processes all \
        "$python" -m pytest -v -m gpu -p no:cacheprovider tests/kernels/test_on_gpu.py
}

: >"$out/failed"
nvidia-smi >"$out/nvidia-smi.txt" 2>&1
workers=()
"$python" -c "import xdist" 2>/dev/null && workers=(-n 4 --dist loadfile)

step doctor 15 "$python" -m gantk doctor --json "$out/doctor.json"
suite dcgan64-cuda 120 dcgan64
suite style512-cuda 90 style
step kernels 90 "$python" benchmarks/kernels/run.py --budget 60 --output "$out/kernels.json"
step tests 110 "$python" -m pytest -v -m gpu -p no:cacheprovider "${workers[@]}" tests &
sanitize memcheck 110 &
sanitize racecheck 110 &
wait
suite dcgan128-cuda 100 dcgan128
suite style1024-cuda 75 style
failed=$(tr '\n' ' ' <"$out/failed")
echo "$SECONDS s in all; failed: ${failed:-nothing}"
[ -z "$failed" ]
