#!/usr/bin/env bash
# Tests, checks and measures the kernels on this machine's card, most valuable first, and writes a
# record. A stage that fails or runs into its limit does not keep the next from running; without a
# card each is reported as ignored, with the reason.
#
# run.sh [FOLDER]     default: a new folder beside this script
#   INFONCE_STAGES    names of the stages to run, between spaces; all when unset
#   INFONCE_DIVISOR   divides the rows of the benchmarks, to rehearse where there is no time
#   INFONCE_PEERS     options of peers/gpu.py, such as "--seconds 400 --d 128 256"
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
run="${1:-$here/run-$(date -u +%Y%m%dT%H%M%SZ)}"
mkdir -p "$run/logs" && run="$(cd "$run" && pwd)" || exit 1
cd "$here" || exit 1
[ -x infonce ] || tar -xzf executables.tar.gz || exit 1
rm -f "$run"/{stages.tsv,rows.json,peers.json,verify.json,clocks.csv}
cp build.json "$run/"
: > "$run/stages.tsv"

# stage NAME LIMIT COMMAND…: runs it for LIMIT seconds at most; what it prints goes to logs/NAME.log.
stage() {
    local name="$1" limit="$2" start exit
    shift 2
    wanted "$name" || return 0
    printf '== %s: %s\n' "$name" "$*"
    start="$(date +%s.%N)"
    timeout --kill-after=10 "$limit" "$@" > "$run/logs/$name.log" 2>&1
    exit=$?
    tail -n 3 "$run/logs/$name.log"
    note "$name" "$limit" "$(awk "BEGIN { print $(date +%s.%N) - $start }")" "$exit" "$*"
}

# ignore NAME REASON COMMAND…: reports it, unstarted.
ignore() {
    local name="$1" reason="$2"
    shift 2
    wanted "$name" || return 0
    printf '== %s: ignored: %s\n' "$name" "$reason"
    note "$name" 0 0 "ignored: $reason" "$*"
}

# on_card NAME LIMIT COMMAND…: a stage for which a card must be there.
on_card() {
    local name="$1" limit="$2"
    shift 2
    if [ -n "$no_card" ]; then ignore "$name" "$no_card" "$@"; else stage "$name" "$limit" "$@"; fi
}

wanted() { [ -z "${INFONCE_STAGES:-}" ] || [[ " $INFONCE_STAGES " == *" $1 "* ]]; }

note() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >> "$run/stages.tsv"; }

# Where a toolkit or pip has put cuBLAS, for the benchmarks' yardstick, and NVRTC with its headers, for
# the trainer's encoder.
pip_toolkit="$(python3 -c 'import nvidia.cu13 as package; print(list(package.__path__)[0])' 2>/dev/null)"
for folder in /usr/local/cuda*/lib64 "$pip_toolkit/lib"; do
    [ -e "$folder/libcublas.so.13" ] && export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}" && break
done
if [ ! -e /usr/local/cuda/include/cuda_runtime.h ] && [ -e "$pip_toolkit/include/cuda_runtime.h" ]; then
    export CUDA_PATH="${CUDA_PATH:-$pip_toolkit}"
fi

no_card="$(./infonce info | sed -n 's/^cuda  not here: //p')"
nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 > "$run/driver"

# Correctness.
stage info 60 ./infonce info
stage device 120 ./cuda_device
stage conformance 240 ./conformance cuda
on_card verify 180 ./infonce verify --engine cuda --report "$run/verify.json"

# Speed, with the card's clocks read twice a second.
clocks() {
    nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader,nounits \
        --loop-ms=500 > "$run/clocks.csv" 2>/dev/null &
    reader=$!
}
clocks
outputs="$(mktemp -d)"
INFONCE_LARGEST=1 INFONCE_OUTPUTS="$outputs" INFONCE_ROWS="$run/rows.json" CRITERION_HOME="$run/criterion" \
    stage bench 360 ./bench --bench
# Others on the same work. Their packages are looked for in Python's own folders and in wheels/ here.
# QuACK tells installed code from the user's by a folder named site-packages, and fails without one.
if compgen -G "wheels/*.whl" > /dev/null && [ ! -e site-packages ]; then
    rm -rf site.part
    python3 -m pip install --quiet --no-index --no-deps --target site.part wheels/*.whl \
        > "$run/logs/wheels.log" 2>&1 && mv site.part site-packages || tail -n 3 "$run/logs/wheels.log"
fi
peers=(python3 peers/gpu.py --out "$run/peers.json" --logs "$run/logs/peers")
[ -e "$run/rows.json" ] && peers+=(--ours "$outputs" --rows "$run/rows.json")
[ -e site-packages ] && peers+=(--site site-packages)
read -r -a options <<< "${INFONCE_PEERS:-}"
peers+=("${options[@]}")
if command -v python3 > /dev/null; then
    on_card peers 420 "${peers[@]}"
else
    ignore peers "there is no python3 here" "${peers[@]}"
fi
rm -rf "$outputs"
kill "$reader" 2>/dev/null
wait "$reader" 2>/dev/null

# Every access checked, races in shared memory, barriers, reads of memory that nothing wrote: on one
# type of inputs each, because checking takes many times as long.
for tool in memcheck racecheck synccheck initcheck; do
    command=(compute-sanitizer --tool "$tool" --error-exitcode 1 ./conformance "cuda bf16")
    if command -v compute-sanitizer > /dev/null; then
        on_card "$tool" 120 "${command[@]}"
    else
        ignore "$tool" "${no_card:-there is no compute-sanitizer here}" "${command[@]}"
    fi
done

# The trainer.
for method in simclr moco; do
    on_card "train-$method" 120 ./infonce train "$method" --engine cuda --epochs 4 --out "$run/train-$method"
done

date -u +%Y-%m-%dT%H:%M:%SZ > "$run/date"
./record assemble "$run" > "$run/record.json" || exit 1
./record table "$run/record.json" | tee "$run/table.txt"
tar -czf "$run/logs.tar.gz" -C "$run" logs
echo "record: $run/record.json"
# A failure is in the record; whoever calls this sees it too.
! grep -q -E '"status": "(failed|timed-out)"' "$run/record.json"
