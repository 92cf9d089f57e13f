#!/usr/bin/env bash
# A run as SLURM jobs: one for the opening, an array for each stage, one for the analysis. Needs a disk that all nodes see.
# Usage: slurm.sh PRESET RUN TASKS [sbatch options, for example --partition=gpu --time=24:00:00]
# If it is submitted again, what is finished is not made again.
set -euo pipefail
preset=$1 run=$2 tasks=$3
shift 3
gpu=(--parsable --gpus=1 --cpus-per-task=8 "$@")

# A stage starts when the jobs that it needs have ended well.
job() { sbatch "${gpu[@]}" ${2:+--dependency=afterok:$2} --job-name="betastar $1" --wrap="$3"; }
stage() {
    sbatch "${gpu[@]}" --dependency="afterok:$2" --job-name="betastar $1" --array="0-$((tasks - 1))" \
        --wrap="betastar work '$run' $1 --share \$SLURM_ARRAY_TASK_ID/$tasks"
}

opening=$(job opening "" "betastar work '$run' --source '$preset' && betastar work '$run' opening")
reference=$(job reference "$opening" "betastar work '$run' reference")
rewards=$(stage rewards "$reference")
offline=$(stage offline "$reference")
probe=$(stage probe "$rewards:$offline")
online=$(stage online "$probe")
ends=$probe:$online
for extra in best_of_n offline_curve plasticity; do # those that the settings switch off end at once
    ends=$ends:$(stage "$extra" "$online")
done
job analysis "$ends" "betastar run '$preset' --out '$run'"
