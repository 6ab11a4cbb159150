#!/bin/sh
# Tunes every method on the validation tasks, then compares all on the test tasks with equal gradient steps; with
# SECONDS_TOO=1 also with equal seconds of adaptation. Goes on where it was interrupted. OUT and JOBS may be set.
set -eu
here=$(dirname "$0")
run="$here/compare_default.toml"
out=${OUT:-runs/compare_default}
jobs=${JOBS:-2}

abmll tune "$run" -o "$out/tuned" --jobs "$jobs"
abmll compare default --run "$run" --tuned "$out/tuned/tuned.toml" -o "$out/steps" --jobs "$jobs"
if [ "${SECONDS_TOO:-0}" = 1 ]; then
  if [ ! -d "$out/seconds" ]; then # what the methods learned across tasks is the same
    mkdir -p "$out/seconds"
    for trained in "$out"/steps/*/seed-0; do cp -R "$(dirname "$trained")" "$out/seconds/"; done
  fi
  # One at a time: seconds mean nothing on a machine that is busy with something else.
  abmll compare default --run "$run" --tuned "$out/tuned/tuned.toml" --budget seconds -o "$out/seconds"
fi
