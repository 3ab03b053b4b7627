#!/usr/bin/env bash
# Tests, checks and measures the kernels on this machine's card, most valuable first, and writes a
# record. A stage that fails or runs into its limit does not keep the next from running; without a
# card each is reported as ignored, with the reason. On SIGTERM the stage under way is ended, the others
# are ignored, and the record is written all the same.
#
# run.sh [FOLDER]     default: a new folder beside this script
#   INFONCE_SECONDS   for all of it, 580 when unset; what is left without time is ignored
#   INFONCE_STAGES    names of the stages to run, between spaces; all when unset
#   INFONCE_DIVISOR   divides the rows of the benchmarks, to rehearse where there is no time
#   INFONCE_PEERS     options of peers/gpu.py, such as "--d 128 256"
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
run="${1:-$here/run-$(date -u +%Y%m%dT%H%M%SZ)}"
mkdir -p "$run/logs" "$run/kernels" && run="$(cd "$run" && pwd)" || exit 1
cd "$here" || exit 1
[ -x infonce ] || tar -xzf executables.tar.gz || exit 1
rm -f "$run"/{stages.tsv,rows.json,peers.json,verify.json,clocks.csv} "$run"/kernels/*
cp build.json "$run/"
: > "$run/stages.tsv"

# Every stage in its order: the seconds that it has at most, and those that earlier ones leave it.
budget="${INFONCE_SECONDS:-580}"
[[ "$budget" =~ ^[0-9]+$ ]] || { echo "error: INFONCE_SECONDS is \"$budget\"; it must be a whole number" >&2; exit 2; }
stages=(info device conformance-Hopper conformance-portable verify memcheck racecheck synccheck bench peers
    train-simclr train-moco initcheck)
declare -A most=([info]=20 [device]=60 [conformance-Hopper]=90 [conformance-portable]=90 [verify]=90 [memcheck]=60
    [racecheck]=90 [synccheck]=60 [bench]=240 [peers]=240 [train-simclr]=60 [train-moco]=60 [initcheck]=60)
declare -A least=([info]=2 [device]=15 [conformance-Hopper]=40 [conformance-portable]=40 [verify]=20 [memcheck]=30
    [racecheck]=45 [synccheck]=30 [bench]=130 [peers]=90 [train-simclr]=45 [train-moco]=45 [initcheck]=0)
# For the record, at the end.
last=15

wanted() { [ -z "${INFONCE_STAGES:-}" ] || [[ " $INFONCE_STAGES " == *" $1 "* ]]; }

# allowed NAME: the seconds it may take, so that those after it have their least.
allowed() {
    local left=$((budget - last - SECONDS)) kept=0 after="" name seconds
    for name in "${stages[@]}"; do
        [ -n "$after" ] && wanted "$name" && kept=$((kept + least[$name]))
        [ "$name" = "$1" ] && after=yes
    done
    seconds=$((left - kept))
    # Where there is not enough for all, the earlier ones are worth more.
    ((seconds >= least[$1])) || seconds=$((left < least[$1] ? left : least[$1]))
    ((seconds <= most[$1])) || seconds=${most[$1]}
    echo $((seconds > 0 ? seconds : 0))
}

stopped=""
child=""
trap 'stopped="the run was interrupted"; [ -z "$child" ] || kill -TERM "$child" 2> /dev/null' TERM INT HUP

# stage NAME COMMAND…: runs it; what it prints goes to logs/NAME.log, what it launches to kernels/NAME.
stage() {
    local name="$1" limit start exit
    shift
    wanted "$name" || return 0
    limit="$(allowed "$name")"
    [ -z "$stopped" ] || { ignore "$name" "$stopped" "$@"; return; }
    ((limit > 0)) || { ignore "$name" "no time left" "$@"; return; }
    printf '== %s, %s s: %s\n' "$name" "$limit" "$*"
    start="$(date +%s.%N)"
    INFONCE_KERNELS="$run/kernels/$name" timeout --kill-after=5 "$limit" "$@" > "$run/logs/$name.log" 2>&1 &
    child=$!
    wait "$child"
    exit=$?
    # A signal ends the first wait; the second is for the stage, which was told to end.
    [ -z "$stopped" ] || { wait "$child"; exit="$stopped"; }
    child=""
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

# on_card NAME COMMAND…: a stage for which a card must be there.
on_card() { if [ -n "$no_card" ]; then ignore "$1" "$no_card" "${@:2}"; else stage "$@"; fi; }

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

# Correctness: the whole table of cases, once with each set of kernels.
stage info ./infonce info
stage device ./cuda_device
stage conformance-Hopper ./conformance "cuda Hopper"
stage conformance-portable ./conformance "cuda portable"
on_card verify ./infonce verify --engine cuda --report "$run/verify.json"

# Every access checked, races in shared memory, barriers: every kernel on few and small cases, because
# checking takes many times as long.
sanitizer() {
    local tool="$1"
    local check="compute-sanitizer --tool $tool --error-exitcode 1"
    local command=(bash -c "INFONCE_REDUCED=1 $check ./conformance cuda && $check ./cuda_device rounding \
&& $check ./cuda_device bound && $check ./cuda_device 'a recorded step of MoCo'")
    if command -v compute-sanitizer > /dev/null; then
        on_card "$tool" "${command[@]}"
    else
        ignore "$tool" "${no_card:-there is no compute-sanitizer here}" "${command[@]}"
    fi
}
sanitizer memcheck
sanitizer racecheck
sanitizer synccheck

# Speed, with the card's clocks read twice a second.
nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader,nounits \
    --loop-ms=500 > "$run/clocks.csv" 2>/dev/null &
reader=$!
outputs="$(mktemp -d)"
INFONCE_LARGEST=1 INFONCE_OUTPUTS="$outputs" INFONCE_ROWS="$run/rows.json" CRITERION_HOME="$run/criterion" \
    stage bench ./bench --bench
# Others on the same work. Their packages are looked for in Python's own folders and in wheels/ here.
# QuACK tells installed code from the user's by a folder named site-packages, and fails without one.
if compgen -G "wheels/*.whl" > /dev/null && [ ! -e site-packages ]; then
    rm -rf site.part
    timeout 60 python3 -m pip install --quiet --no-index --no-deps --target site.part wheels/*.whl \
        > "$run/logs/wheels.log" 2>&1 && mv site.part site-packages || tail -n 3 "$run/logs/wheels.log"
fi
# No further size is begun when little of the limit is left.
peers_limit="$(allowed peers)"
peers=(python3 peers/gpu.py --out "$run/peers.json" --logs "$run/logs/peers"
    --seconds "$((peers_limit > 60 ? peers_limit - 40 : 20))")
[ -e "$run/rows.json" ] && peers+=(--ours "$outputs" --rows "$run/rows.json")
[ -e site-packages ] && peers+=(--site site-packages)
read -r -a options <<< "${INFONCE_PEERS:-}"
peers+=("${options[@]}")
if command -v python3 > /dev/null; then
    on_card peers "${peers[@]}"
else
    ignore peers "there is no python3 here" "${peers[@]}"
fi
rm -rf "$outputs"
kill "$reader" 2>/dev/null
wait "$reader" 2>/dev/null

# The trainer.
for method in simclr moco; do
    on_card "train-$method" ./infonce train "$method" --engine cuda --epochs 4 --out "$run/train-$method"
done

# Reads of memory that nothing wrote, if there is time.
sanitizer initcheck

date -u +%Y-%m-%dT%H:%M:%SZ > "$run/date"
./record assemble "$run" > "$run/record.json" || exit 1
./record table "$run/record.json" | tee "$run/table.txt"
tar -czf "$run/logs.tar.gz" -C "$run" logs
echo "record: $run/record.json"
# A failure is in the record; whoever calls this sees it too.
! grep -q -E '"status": "(failed|timed-out)"' "$run/record.json"
