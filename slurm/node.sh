#!/usr/bin/env bash
# What srun starts once on every node of a stage's job: the site's lines, then Python.
#   node.sh RUN_DIR STAGE SITE_FILE
set -euo pipefail
run_dir=$1 stage=$2 site=$3

# By this file node 0 tells that another one broke down from SLURM wanting the place back: srun sends TERM for both.
broken=$run_dir/.slurm/$stage.broken.$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}

fail() {
  printf 'heliograph: %s cannot start on %s: %s\n' "$stage" "$(hostname)" "$*" >&2
  printf 'cannot start on %s: %s\n' "$(hostname)" "$*" >"$broken"
  exit 1
}

# shellcheck source=/dev/null  # written for this run
source "$site"

nodes=${SLURM_NNODES:-1}
processes=${SLURM_GPUS_ON_NODE:-1} # one for each GPU
((processes > 0)) || processes=1
words=(--nodes "$nodes" --node-rank "${SLURM_NODEID:-0}" --processes "$processes")
if ((nodes * processes > 1)); then
  hosts=$(scontrol show hostnames "${SLURM_STEP_NODELIST:-$SLURM_JOB_NODELIST}") ||
    fail "scontrol, which knows the names of the job's nodes, is not in PATH ($PATH) or fails"
  master=${hosts%%$'\n'*}
  # Every node must find the first one by that name. A stand-in such as localhost would start as many lone runs.
  getent hosts "$master" >/dev/null ||
    fail "the name of the job's first node, $master, does not resolve here: ask the administrators"
  words+=(--master "$master:$((20000 + SLURM_JOB_ID % 10000))")
fi

# shellcheck disable=SC2154  # both come from the site's file
command=(${container[@]+"${container[@]}"} "$python" -m pipelines.cluster.job "${words[@]}" "$run_dir" "$stage")
[ "${SLURM_NODEID:-0}" != 0 ] || exec "${command[@]}"

trap : TERM USR1 # they are for the processes below, which get them too
"${command[@]}" &
child=$!
while :; do
  wait "$child" && status=0 || status=$?
  kill -0 "$child" 2>/dev/null || break
done
[ "$status" = 0 ] || printf 'the processes on %s ended with %s\n' "$(hostname)" "$status" >"$broken"
exit "$status"
