#!/usr/bin/env bash
# Ends what up.sh started in DIR, by the ids in its pid files and nothing else, and removes DIR.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
dir=${1:?the folder given to up.sh}
[ -f "$dir/etc/slurm.conf" ] || exit 0
export SLURM_CONF=$dir/etc/slurm.conf

# A process that was never waited for stays as a zombie, so that kill -0 says nothing.
running() { [ -d "/proc/$1" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }
# Only a daemon of that name whose command line names our folder.
ours() {
  local pid name=${1##*/}
  pid=$(cat "$1" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "${name%%.*}" ] &&
    tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qF -- "$dir/" && echo "$pid"
}
stop() {
  local pid
  pid=$(ours "$1") || return 0
  kill -TERM "$pid" 2>/dev/null || true
  for _ in $(seq 100); do running "$pid" || return 0; sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null || true
}

# Jobs outlive slurmd by design, so they go first.
if ours "$dir/run/slurmctld.pid" >/dev/null; then
  mapfile -t jobs < <(timeout 15 squeue -h -o %A | sort -u)
  if [ ${#jobs[@]} -gt 0 ]; then
    timeout 30 scancel "${jobs[@]}" || true
    for _ in $(seq 150); do [ -n "$(timeout 15 squeue -h -o %A -t R,CG,S,CF)" ] || break; sleep 0.1; done
  fi
fi
for file in "$dir"/run/slurmd.*.pid; do stop "$file" & done
wait
stop "$dir/run/slurmctld.pid"
# What a job put into a session of its own escapes proctrack/linuxproc: told by the folder in its environment.
for entry in /proc/[0-9]*; do
  if { tr '\0' '\n' <"$entry/environ"; } 2>/dev/null | grep -qxF "SLURM_CONF=$SLURM_CONF" &&
    { tr '\0' '\n' <"$entry/environ"; } 2>/dev/null | grep -q '^SLURM_JOB_ID='; then
    kill -KILL "${entry#/proc/}" 2>/dev/null || true
  fi
done
stop "$dir/run/munged.pid"
rm -rf "$dir"
