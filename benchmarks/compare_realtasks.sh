#!/bin/sh
# As compare_default.sh, on real tasks: compare_realtasks.sh DIR, where DIR holds data/realtasks and models/stories260K.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR   (the folder with data/realtasks and models/stories260K)" >&2; exit 2; }
here=$(dirname "$0")
run="$here/compare_realtasks.toml"
out=${OUT:-runs/compare_realtasks}
jobs=${JOBS:-2}
common="method.options.num_steps=20 model.name=$1/models/stories260K data.folder=$1/data/realtasks"

# shellcheck disable=SC2086  # the words of $common are arguments
{
  abmll tune "$run" $common -o "$out/tuned" --jobs "$jobs"
  abmll compare realtasks $common --run "$run" --tuned "$out/tuned/tuned.toml" -o "$out/steps" --jobs "$jobs"
  abmll compare realtasks $common --run "$run" --tuned "$out/tuned/tuned.toml" --budget seconds -o "$out/seconds"
}
