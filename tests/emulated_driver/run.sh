#!/usr/bin/env bash
# Tests all code above the CUDA driver without a card: the tests load the library of this folder as libcuda.so. Logs are
# in target/emulated.
#
# run.sh [cuda_device | known_values | conformance]…    default: all of them
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "error: $*" >&2
    exit 1
}
targets=(cuda_device known_values conformance)
for target in "$@"; do
    [[ " ${targets[*]} " == *" $target "* ]] || fail "target \"$target\" must be one of: ${targets[*]}"
done
[ $# = 0 ] || targets=("$@")

library="$(cargo build -p emulated-driver --message-format=json-render-diagnostics |
    sed -n 's/.*"\([^"]*\/libemulated_driver\.so\)".*/\1/p')"
# Not in cargo's own folder, where every test that cargo runs would find it.
emulated="$(realpath "$(dirname "$library")/..")/emulated"
mkdir -p "$emulated/none"
ln -sf "$library" "$emulated/libcuda.so"
# An empty file ends the loader's search.
: > "$emulated/none/libcuda.so"
: > "$emulated/none/libcuda.so.1"

# under FOLDER TARGET FILTER…: runs tests with the driver of the folder.
under() {
    LD_LIBRARY_PATH="$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" INFONCE_REQUIRE_CUDA=1 \
        cargo test --features cuda,cli --test "$2" -- "${@:3}" 2>&1
}

# passes TARGET LEAST FILTER…: fails unless at least LEAST tests pass under the library, and none fails or is ignored.
# The library fails a process that leaves something unfreed.
passes() {
    local log="$emulated/$1.log" passed
    under "$emulated" "$1" "${@:3}" | tee "$log"
    grep -q 'emulated CUDA driver: device 0 ' "$log" || fail "$1 has run without the emulated driver"
    passed="$(sed -n 's/^test result: ok\. \([0-9]*\) passed; 0 failed; 0 ignored; .*/\1/p' "$log")"
    [ "${passed:-0}" -ge "$2" ] || fail "$1: ${passed:-no} tests have passed, of at least $2; or some were ignored"
}

# A target must fail without a driver, so that none passes which runs nothing.
fails_without_a_driver() {
    local log="$emulated/none/$1.log"
    ! under "$emulated/none" "$1" > "$log" || fail "$1 passes without a driver"
    grep -q 'error: INFONCE_REQUIRE_CUDA is set, but ' "$log" || { cat "$log"; fail "$1 does not say what is missing"; }
}

for target in "${targets[@]}"; do
    fails_without_a_driver "$target"
    case "$target" in
        cuda_device) passes cuda_device 20 ;;
        known_values) passes known_values 18 'cuda: ' ;;
        conformance)
            # Every loss and type on small problems; the whole suite takes many minutes.
            skipped=(', unit' x64 x128 x130 'f32 row-wise' 'f16 row-wise' 'f32 top-k' 'f16 top-k')
            passes conformance 200 'cuda ' "${skipped[@]/#/--skip=}"
            ;;
    esac
done
