#!/usr/bin/env bash
# Tests, checks and measures the kernels on this machine's card in two calls. Each ends within its limit and writes a
# record. The next stage runs also when one fails or reaches its limit. Without a card, stages are ignored, with the
# reason. SIGTERM ends the running stage and ignores the others; the record is still written.
#
# run.sh correctness [FOLDER]   240 s; default: a new folder beside this script
# run.sh speed [FOLDER]         300 s
# run.sh [FOLDER]               both, and one record of the two
#   INFONCE_SECONDS   seconds of a call; stages without time are ignored
#   INFONCE_STAGES    names of the stages to run, between spaces; all when unset
#   INFONCE_DIVISOR   divides the rows of the benchmarks, for a short trial
#   INFONCE_PEERS     further options of peers/gpu.py, such as "--works CLIP"
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
call=""
case "${1:-}" in correctness | speed) call="$1" && shift ;; esac
run="${1:-$here/run-$(date -u +%Y%m%dT%H%M%SZ)}"
mkdir -p "$run" && run="$(cd "$run" && pwd)" || exit 1
cd "$here" || exit 1
[ -x infonce ] || timeout 30 tar -xzf executables.tar.gz || exit 1

# Both calls.
if [ -z "$call" ]; then
    child="" stopped="" failed=0
    trap 'stopped=yes; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null' TERM INT HUP
    for call in correctness speed; do
        # A call that starts after the signal notes its stages as ignored.
        INFONCE_STOPPED="$stopped" "$here/run.sh" "$call" "$run/$call" &
        child=$!
        # A signal ends the wait; the call still writes its record.
        while wait "$child"; exit=$?; ((exit > 128)) && kill -0 "$child" 2> /dev/null; do :; done
        ((exit == 0)) || failed=1
    done
    ./record merge "$run/correctness/record.json" "$run/speed/record.json" > "$run/record.json" || exit 1
    ./record table "$run/record.json" > "$run/table.txt" || exit 1
    echo "record of both calls: $run/record.json"
    exit "$failed"
fi

mkdir -p "$run"/{logs,kernels,rows} || exit 1
rm -f "$run"/{stages.tsv,verify.json,clocks.csv,record.json} "$run"/{logs,kernels,rows}/* 2> /dev/null
cp build.json "$run/"
: > "$run/stages.tsv"

# The call's stages in order. `most`: the most seconds that a stage may take. `least`: the seconds that the stages before
# it leave to it; a stage in `rest` has none reserved, and runs when its least is left.
case "$call" in
    correctness) default=240 rest=" " stages=(info device conformance-Hopper conformance-portable memcheck weights) ;;
    speed) default=300 stages=(bench peers bench-rest peers-rest verify train-simclr train-moco racecheck synccheck initcheck)
        rest=" ${stages[*]:2} " ;;
esac
declare -A most=([info]=20 [device]=60 [conformance-Hopper]=90 [conformance-portable]=90 [memcheck]=60 [weights]=40
    [bench]=110 [peers]=200 [bench-rest]=120 [peers-rest]=120 [verify]=60 [train-simclr]=60 [train-moco]=60
    [racecheck]=90 [synccheck]=60 [initcheck]=60)
declare -A least=([info]=2 [device]=15 [conformance-Hopper]=40 [conformance-portable]=40 [memcheck]=30 [weights]=15
    [bench]=60 [peers]=100 [bench-rest]=45 [peers-rest]=45 [verify]=20 [train-simclr]=30 [train-moco]=30
    [racecheck]=45 [synccheck]=30 [initcheck]=30)
budget="${INFONCE_SECONDS:-$default}"
[[ "$budget" =~ ^[0-9]+$ ]] || { echo "error: INFONCE_SECONDS is \"$budget\"; it must be a whole number" >&2; exit 2; }
# Seconds kept for writing the record, and for a stage that does not end at once.
last=20

wanted() { [ -z "${INFONCE_STAGES:-}" ] || [[ " $INFONCE_STAGES " == *" $1 "* ]]; }

# allowed NAME: prints the seconds that the stage may take, so that later stages have their least.
allowed() {
    local left=$((budget - last - SECONDS)) kept=0 after="" name seconds
    if [[ "$rest" == *" $1 "* ]]; then
        ((left >= least[$1])) || left=0
        echo $((left < most[$1] ? left : most[$1]))
        return
    fi
    for name in "${stages[@]}"; do
        [ -n "$after" ] && wanted "$name" && [[ "$rest" != *" $name "* ]] && kept=$((kept + least[$name]))
        [ "$name" = "$1" ] && after=yes
    done
    seconds=$((left - kept))
    # Where too little is left for all, earlier stages have their least first.
    ((seconds >= least[$1])) || seconds=$((left < least[$1] ? left : least[$1]))
    ((seconds <= most[$1])) || seconds=${most[$1]}
    echo $((seconds > 0 ? seconds : 0))
}

stopped="${INFONCE_STOPPED:+the run was interrupted}"
child=""
trap 'stopped="the run was interrupted"; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null' TERM INT HUP

# stage NAME COMMAND…: runs the command. Its output goes to logs/NAME.log, the kernels that its tests launch to
# kernels/NAME, the rows that it times to rows/NAME.json.
stage() {
    local name="$1" limit start exit
    shift
    wanted "$name" || return 0
    limit="$(allowed "$name")"
    [ -z "$stopped" ] || { ignore "$name" "$stopped" "$@"; return; }
    ((limit > 0)) || { ignore "$name" "no time left" "$@"; return; }
    printf '== %s, %s s: %s\n' "$name" "$limit" "$*"
    start="$(date +%s.%N)"
    INFONCE_KERNELS="$run/kernels/$name" INFONCE_ROWS="$run/rows/$name.json" \
        timeout --kill-after=5 "$limit" "$@" > "$run/logs/$name.log" 2>&1 &
    child=$!
    wait "$child"
    exit=$?
    # A signal ends the first wait; the second waits for the stage, which has the signal too.
    [ -z "$stopped" ] || { wait "$child"; exit="$stopped"; }
    child=""
    tail -n 3 "$run/logs/$name.log"
    note "$name" "$limit" "$(awk "BEGIN { print $(date +%s.%N) - $start }")" "$exit" "$*"
}

# ignore NAME REASON COMMAND…: reports a stage as ignored.
ignore() {
    local name="$1" reason="$2"
    shift 2
    wanted "$name" || return 0
    printf '== %s: ignored: %s\n' "$name" "$reason"
    note "$name" 0 0 "ignored: $reason" "$*"
}

# on_card NAME COMMAND…: a stage that needs a card.
on_card() { if [ -n "$no_card" ]; then ignore "$1" "$no_card" "${@:2}"; else stage "$@"; fi; }

note() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >> "$run/stages.tsv"; }

# sanitizer TOOL: a stage that runs every kernel under compute-sanitizer, on few small cases, because it is many times
# slower.
sanitizer() {
    local tool="$1"
    local check="compute-sanitizer --tool $tool --error-exitcode 1"
    local command=(bash -c "INFONCE_REDUCED=1 $check ./conformance cuda && $check ./cuda_device rounding \
&& $check ./cuda_device bound && $check ./cuda_device a_recorded_step_of_moco")
    if command -v compute-sanitizer > /dev/null; then
        on_card "$tool" "${command[@]}"
    else
        ignore "$tool" "${no_card:-there is no compute-sanitizer here}" "${command[@]}"
    fi
}

# bench NAME CASES: a stage of this crate's benchmarks. Outputs that gpu.py checks go to $outputs.
bench() {
    INFONCE_CASES="$2" INFONCE_LARGEST=1 INFONCE_OUTPUTS="$outputs" CRITERION_HOME="$run/criterion" \
        stage "$1" ./bench --bench
}

# others NAME SHAPES: a stage of the other libraries. No case starts in the last 30 seconds of the limit.
others() {
    local name="$1" limit
    limit="$(allowed "$name")"
    local command=(python3 peers/gpu.py --out "$run/rows/$name.json" --logs "$run/logs/$name" --shapes "$2"
        --limit 60 --seconds "$((limit > 60 ? limit - 30 : limit / 2))")
    [ -e "$run/rows/bench.json" ] && command+=(--ours "$outputs" --rows "$run/rows/bench.json")
    [ -e site-packages ] && command+=(--site site-packages)
    local -a options
    read -r -a options <<< "${INFONCE_PEERS:-}"
    command+=("${options[@]}")
    if command -v python3 > /dev/null; then
        on_card "$name" "${command[@]}"
    else
        ignore "$name" "there is no python3 here" "${command[@]}"
    fi
}

# Finds cuBLAS, the benchmarks' yardstick, and NVRTC with its headers, for the trainer's encoder, in a toolkit or in
# pip's packages.
pip_toolkit="$(timeout 10 python3 -c 'import nvidia.cu13 as package; print(list(package.__path__)[0])' 2> /dev/null)"
for folder in /usr/local/cuda*/lib64 "$pip_toolkit/lib"; do
    [ -e "$folder/libcublas.so.13" ] && export LD_LIBRARY_PATH="$folder:${LD_LIBRARY_PATH:-}" && break
done
if [ ! -e /usr/local/cuda/include/cuda_runtime.h ] && [ -e "$pip_toolkit/include/cuda_runtime.h" ]; then
    export CUDA_PATH="${CUDA_PATH:-$pip_toolkit}"
fi

no_card="$(timeout 20 ./infonce info | sed -n 's/^cuda  *not here: //p')"
timeout 10 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2> /dev/null | head -n 1 > "$run/driver"
outputs="$(mktemp -d)"
# Reads the card's clocks twice a second.
read_clocks() {
    nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader,nounits \
        --loop-ms=500 >> "$run/clocks.csv" 2> /dev/null &
    reader=$!
}

case "$call" in
    correctness)
        stage info ./infonce info
        stage device ./cuda_device
        # The whole table of cases, once with each set of kernels.
        stage conformance-Hopper env INFONCE_FULL=1 ./conformance "cuda Hopper"
        stage conformance-portable env INFONCE_FULL=1 ./conformance "cuda portable"
        sanitizer memcheck
        read_clocks
        bench weights weights
        ;;
    speed)
        read_clocks
        bench bench first
        # The other libraries are in Python's own folders or in wheels/ here. QuACK fails unless it lies in a folder
        # named site-packages.
        if compgen -G "wheels/*.whl" > /dev/null && [ ! -e site-packages ]; then
            rm -rf site.new
            timeout 30 python3 -m pip install --quiet --no-index --no-deps --target site.new wheels/*.whl \
                > "$run/logs/wheels.log" 2>&1 && mv site.new site-packages || tail -n 3 "$run/logs/wheels.log"
        fi
        others peers first
        bench bench-rest rest
        others peers-rest rest
        on_card verify ./infonce verify --engine cuda --report "$run/verify.json"
        for method in simclr moco; do
            on_card "train-$method" ./infonce train "$method" --engine cuda --epochs 4 --out "$run/train-$method"
        done
        sanitizer racecheck
        sanitizer synccheck
        sanitizer initcheck
        ;;
esac
rm -rf "$outputs"
kill "$reader" 2> /dev/null

date -u +%Y-%m-%dT%H:%M:%SZ > "$run/date"
timeout 10 ./record assemble "$run" > "$run/record.json" || exit 1
timeout 2 ./record table "$run/record.json" | tee "$run/table.txt"
timeout 3 tar -czf "$run/logs.tar.gz" -C "$run" logs
echo "record: $run/record.json"
# A failure in the record sets the exit code too.
! grep -q -E '"status": "(failed|timed-out)"' "$run/record.json"
