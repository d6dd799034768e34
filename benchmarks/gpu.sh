#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What only a GPU can show, in under ten minutes: `benchmarks/gpu.sh OUT` writes logs and JSON into OUT; `benchmarks/gpu.sh
# OUT 480` ends after so many seconds. What matters most comes first, and it goes on after a failure, so that a short
# session brings back what there is; the last line says what failed, and what there was no time for. Steps that only check
# run beside each other; those that time run alone. Of the kernels' own benchmark it has the Gram matrices.
# Gantk's operators take part where they are: pip install ./kernels, or GANTK_ONNXRUNTIME_OPS=LIBRARY.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh OUT [SECONDS]}
total=${2:-600}
python=${PYTHON:-python3}
export PYTHONPATH=$PWD/toolkit${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 # What is ended leaves what it said.
# The wheels of CUDA's libraries, wherever they are on Python's path: ONNX Runtime looks beside its own package alone.
libraries=$("$python" -c 'import glob, sys; print(":".join(d for p in sys.path for d in glob.glob(p + "/nvidia/*/lib")))')
[ -n "$libraries" ] && export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2 began=$SECONDS
    shift 2
    ((seconds > total - SECONDS)) && seconds=$((total - SECONDS))
    if ((seconds < 10)); then
        echo "$name" >>"$out/failed"
        echo "== $name: left out, the time is up" | tee "$out/$name.log"
        return
    fi
    # Python answers no signal while it waits for a GPU that hangs.
    timeout -k 5 "$seconds" "$@" >"$out/$name.log" 2>&1 || echo "$name" >>"$out/failed"
    # Tests that all leave themselves out, as where a library sees no GPU, are no success.
    grep -qE '^=+ [0-9]+ skipped' "$out/$name.log" && echo "$name" >>"$out/failed"
    echo "== $name, $((SECONDS - began)) s"
    tail -n 5 "$out/$name.log"
}

more() { step "$@"; } # In the time that is left.

suite() { # NAME SECONDS NETWORK
    step "$1" "$2" "$python" benchmarks/run.py "$1" --output "$out/$1.json" --bundle "$work/$3.gantk"
}

# The kernels' own tests under a checker of NVIDIA's, which comes with the CUDA toolkit. Errors of the API are left out:
# cuda-bindings asks the driver for functions that it may lack.
sanitize() { # TOOL SECONDS
    local checker
    if ! checker=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer); then
        echo "== $1: skipped, compute-sanitizer is not on the PATH" | tee "$out/$1.log"
        return
    fi
    more "$1" "$2" "$checker" --tool "$1" --report-api-errors no --error-exitcode 9 --target-processes all \
        "${pytest[@]}" tests/kernels/test_on_gpu.py
}

: >"$out/failed"
timeout -k 5 10 nvidia-smi >"$out/nvidia-smi.txt" 2>&1
pytest=("$python" -m pytest -v -m gpu -p no:cacheprovider)
workers=()
"$python" -c "import xdist" 2>/dev/null && workers=(-n 4 --dist loadfile)
# The test suite leaves an installed package of operators out where it is not named.
operators=$("$python" -c "from gantk.runtime.operators import native_operators as n; print(n('cuda') or '')" 2>/dev/null)
[ -n "$operators" ] && export GANTK_ONNXRUNTIME_OPS=$operators

# What has not been seen on a GPU is seen first. Of the C++ runner a build with the headers of ONNX Runtime 1.23 or later
# is wanted, which captures graphs.
for name in GANTK_CPP_BUILD GANTK_ONNXRUNTIME_OPS; do
    [ -n "${!name:-}" ] && continue
    echo "== $name is not set: its tests leave themselves out"
    echo "$name" >>"$out/failed"
done
new=(tests/cpp/test_on_gpu.py tests/kernels/test_to_picture_operator.py tests/step/test_on_gpu.py)
runtime=tests/runtime/test_onnxruntime_on_gpu.py
step doctor 15 "$python" -m gantk doctor --json "$out/doctor.json"
step early 45 "${pytest[@]}" tests/kernels/test_on_gpu.py tests/kernels/test_trials_on_gpu.py -k come_early
step new 55 "${pytest[@]}" "${workers[@]}" "${new[@]}"
step runtime 75 "${pytest[@]}" "$runtime"
suite dcgan128-cuda 160 dcgan128
step dcgan128-kernels 30 "$python" benchmarks/gpu_kernels.py "$work/dcgan128.gantk" --shape latent=64x100 \
    --output "$out/gpu_kernels.json"
suite style512-cuda 130 style
# With kernels that come early, as they do, and in turn.
for early in on off; do
    more "style512-early-$early" 30 env "GANTK_EARLY_LAUNCHES=$early" "$python" -m gantk bench "$work/style.gantk" \
        --backend onnxruntime --precision fp16 --shape picture=1x512x512x3 --budget 10s \
        --json "$out/style512-early-$early.json"
done
suite style1024-cuda 90 style
more tests 100 "${pytest[@]}" "${workers[@]}" --ignore "$runtime" "${new[@]/#/--ignore=}" tests &
sanitize memcheck 100 &
sanitize racecheck 100 &
wait
more kernels 60 "$python" benchmarks/kernels/run.py --only Gram --budget 45 --output "$out/kernels.json"
more dcgan64-cuda 150 "$python" benchmarks/run.py dcgan64-cuda --output "$out/dcgan64-cuda.json"
failed=$(tr '\n' ' ' <"$out/failed")
echo "$SECONDS s in all; failed: ${failed:-nothing}"
[ -z "$failed" ]
