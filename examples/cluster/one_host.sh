#!/usr/bin/env bash
# A run on all GPUs of this machine. Usage: one_host.sh [PRESET | FILE.yaml] [RUN]
set -euo pipefail
preset=${1:-paper-strict}
run=${2:-runs/$(basename "$preset" .yaml)}
gpus=$(nvidia-smi --list-gpus | wc -l)

betastar doctor "$preset"
betastar plan "$preset" --workers "$gpus"
betastar run "$preset" --engine ray --workers "$gpus" --out "$run"
