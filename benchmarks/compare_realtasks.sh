#!/bin/sh
# As compare_default.sh, on real tasks: compare_realtasks.sh DIR [TUNED], where DIR holds data/realtasks and
# models/stories260K. Each method keeps the options that it was given on the embedded suite (TUNED), where all had the
# same number of trials.
set -eu
[ $# -ge 1 ] || { echo "usage: $0 DIR [TUNED]   (the folder with data/realtasks and models/stories260K)" >&2; exit 2; }
here=$(dirname "$0")
abmll compare realtasks "model.name=$1/models/stories260K" "data.folder=$1/data/realtasks" \
  --run "$here/compare_realtasks.toml" --tuned "${2:-$here/results/compare_default-tuned.toml}" \
  -o "${OUT:-runs/compare_realtasks}" --jobs "${JOBS:-2}"
