#!/usr/bin/env bash
# Builds all executables that run on a card and packs them, with run.sh, into a folder for a machine that has a card
# and no Rust: benches/packed/README.md.
#
# pack.sh [FOLDER]    default: target/packed
set -euo pipefail
packed="$(realpath -m "${1:-$(dirname "$0")/../../target/packed}")"
cd "$(dirname "$0")/../.."

if [ -e "$packed" ] && [ ! -e "$packed/build.json" ]; then
    echo "error: $packed exists and was not made by this script" >&2
    exit 1
fi
rm -rf "$packed"
mkdir -p "$packed"

# Strips and copies the executables of a build. Cargo prints a line of JSON for each.
build() {
    cargo build --release --message-format=json "$@" |
        sed -n 's/.*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
        while read -r name executable; do
            strip -o "$packed/$name" "$executable"
        done
}
# The suites and benchmarks link no tensor framework; the command line does, for the trainer.
build -p infonce -p benches -p records --features infonce/cuda,infonce/cli,benches/cuda,records/cuda \
    --test conformance --test cuda_device --bench cuda --bin record
mv "$packed/cuda" "$packed/bench"
build -p infonce --features cuda,train --bin infonce

cp benches/packed/run.sh "$packed/"
mkdir "$packed/peers"
cp benches/peers/{gpu,measure,entries}.py benches/peers/requirements.txt "$packed/peers/"
modified=false
[ -z "$(git status --porcelain)" ] || modified=true
cat > "$packed/build.json" <<JSON
{"commit": "$(git rev-parse HEAD)", "modified": $modified, "rustc": "$(rustc --version | cut -d' ' -f2)"}
JSON
executables=(conformance cuda_device bench record infonce)
for name in "${executables[@]}"; do
    [ -x "$packed/$name" ] || { echo "error: cargo has made no $name" >&2; exit 1; }
done
# A third of their size; run.sh unpacks them.
tar -czf "$packed/executables.tar.gz" -C "$packed" --remove-files "${executables[@]}"
du -sh "$packed"
