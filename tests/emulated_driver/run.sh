#!/usr/bin/env bash
# Runs what stands on the CUDA driver where there is no card: the tests find the library of this folder
# as libcuda.so. Beside it, in target/emulated, lie their logs.
#
# run.sh [cuda_device | known_values | conformance]…    default: all of them
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "error: $*" >&2
    exit 1
}
parts=(cuda_device known_values conformance)
for part in "$@"; do
    [[ " ${parts[*]} " == *" $part "* ]] || fail "part \"$part\" must be one of: ${parts[*]}"
done
[ $# = 0 ] || parts=("$@")

library="$(cargo build -p emulated-driver --message-format=json-render-diagnostics |
    sed -n 's/.*"\([^"]*\/libemulated_driver\.so\)".*/\1/p')"
# Not cargo's own folder, in which every test that cargo runs would find it.
emulated="$(realpath "$(dirname "$library")/..")/emulated"
mkdir -p "$emulated/none"
ln -sf "$library" "$emulated/libcuda.so"
# The loader ends its search at a file that is no library.
: > "$emulated/none/libcuda.so"
: > "$emulated/none/libcuda.so.1"

# under FOLDER TARGET FILTER…: runs tests, which find the driver in the folder.
under() {
    LD_LIBRARY_PATH="$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" INFONCE_REQUIRE_CUDA=1 \
        cargo test --features cuda,cli --test "$2" -- "${@:3}" 2>&1
}

# passes TARGET LEAST FILTER…: whether all tests that the filter leaves pass under the library, none
# of them ignored and at least so many. Where something is left unfreed, the library fails the process.
passes() {
    local log="$emulated/$1.log" passed
    under "$emulated" "$1" "${@:3}" | tee "$log"
    grep -q 'emulated CUDA driver: device 0 ' "$log" || fail "$1 has run without the emulated driver"
    passed="$(sed -n 's/^test result: ok\. \([0-9]*\) passed; 0 failed; 0 ignored; .*/\1/p' "$log")"
    [ "${passed:-0}" -ge "$2" ] || fail "$1: ${passed:-no} tests have passed, of at least $2; or some were ignored"
}

# Without a driver a target fails, so none passes that has run nothing.
fails_without_a_driver() {
    local log="$emulated/none/$1.log"
    ! under "$emulated/none" "$1" > "$log" || fail "$1 passes without a driver"
    grep -q 'error: INFONCE_REQUIRE_CUDA is set, but ' "$log" || { cat "$log"; fail "$1 does not say what is missing"; }
}

for part in "${parts[@]}"; do
    fails_without_a_driver "$part"
    case "$part" in
        cuda_device) passes cuda_device 20 ;;
        known_values) passes known_values 18 'cuda: ' ;;
        conformance)
            # Every loss and type on small problems; the whole suite takes many minutes.
            skipped=(', unit' x64 x128 x130 'f32 row-wise' 'f16 row-wise' 'f32 top-k' 'f16 top-k')
            passes conformance 200 'cuda ' "${skipped[@]/#/--skip=}"
            ;;
    esac
done
