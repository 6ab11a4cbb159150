#!/bin/sh
# As compare_default.sh, on real tasks: compare_realtasks.sh DIR [TUNED], where DIR holds data/realtasks and
# models/stories260K. Each method keeps the options that it was given on the embedded suite (TUNED), where all had the
# same number of trials. With SECONDS_TOO=1 also with equal seconds of adaptation.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 DIR [TUNED]   (the folder with data/realtasks and models/stories260K)" >&2; exit 2; }
here=$(dirname "$0")
tuned="${2:-$here/results/compare_default-tuned.toml}"
out="${OUT:-runs/compare_realtasks}"

compare() {
  abmll compare realtasks "model.name=$dir/models/stories260K" "data.folder=$dir/data/realtasks" \
    --run "$here/compare_realtasks.toml" --tuned "$tuned" "$@"
}

dir=$1
compare -o "$out/steps" --jobs "${JOBS:-2}"
if [ "${SECONDS_TOO:-0}" = 1 ]; then
  if [ ! -d "$out/seconds" ]; then # what the methods learned across tasks is the same
    mkdir -p "$out/seconds"
    for trained in "$out"/steps/*/seed-0; do cp -R "$(dirname "$trained")" "$out/seconds/"; done
  fi
  # One at a time: seconds mean nothing on a machine that is busy with something else.
  compare --budget seconds -o "$out/seconds"
fi
