#!/bin/sh
# Tunes every method on the validation tasks, then compares all on the test tasks: once with equal gradient steps, once
# with equal seconds of adaptation. Goes on where it was interrupted. OUT and JOBS may be set.
set -eu
here=$(dirname "$0")
run="$here/compare_default.toml"
out=${OUT:-runs/compare_default}
jobs=${JOBS:-2}
steps=method.options.num_steps=20

abmll tune "$run" $steps -o "$out/tuned" --jobs "$jobs"
abmll compare default $steps --run "$run" --tuned "$out/tuned/tuned.toml" -o "$out/steps" --jobs "$jobs"
# One at a time: seconds mean nothing on a machine that is busy with something else.
abmll compare default $steps --run "$run" --tuned "$out/tuned/tuned.toml" --budget seconds -o "$out/seconds"
