#!/bin/bash
# One machine with eight GPUs in a Ray cluster that runs already (docs/scale.md):
#
#   RAY_ADDRESS=http://HEAD:8265 bash examples/scale/ray.sh
#
# Ray places the job and keeps its log; torchrun starts the processes. The job's machine needs eight free GPUs.
set -euo pipefail
launch="torchrun --standalone --nproc-per-node 8"

submit() {
  ray job submit --working-dir . --entrypoint-num-gpus 8 -- "$@"
}

# shellcheck disable=SC2086
submit $launch -m abmll.cli train examples/llama3_8b.toml data.suite=my_tasks training.episodes_per_step=64 output=/mnt/runs/llama3_8b --resume
# shellcheck disable=SC2086
submit $launch -m abmll.cli evaluate examples/llama3_8b.toml data.suite=my_tasks training.episodes_per_step=64 output=/mnt/runs/llama3_8b --adapter /mnt/runs/llama3_8b/adapter
