#!/usr/bin/env bash
# A real SLURM for tests: munged, slurmctld and a few slurmd on this host, on loopback, without systemd.
#   up.sh DIR [NODES] [GPUS]      as root; DIR is made, at most 60 characters long
# With NETNS=1 the nodes have the network namespaces n1, n2, … that netns.sh made.
# The last line on stdout is `export SLURM_CONF=…`; all a client needs.  `down.sh DIR` ends what this started.
# Exit: 0 every node takes jobs; 1 it failed, logs are shown; 3 this host cannot (not root, or packages missing).
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C.UTF-8
dir=${1:?a folder} nodes=${2:-2} gpus=${3:-0}
say() { echo "up.sh: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "slurmd starts jobs as their users, so it needs root"; exit 3; }
[ ${#dir} -le 60 ] || { say "$dir is too long for the unix sockets in it"; exit 3; }
if ! command -v slurmctld slurmd sbatch munged >/dev/null; then
  [ -n "${SLURM_INSTALL:-}" ] || { say "no SLURM here: apt-get install slurmctld slurmd slurm-client munge"; exit 3; }
  apt-get update -q >&2 || true
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends slurmctld slurmd slurm-client munge >&2
fi
unshare --uts --mount true 2>/dev/null || { say "nodes need host names of their own, and unshare is not allowed"; exit 3; }

mkdir -p "$dir"/{etc,run,log,state,spool,dev}
chmod 755 "$dir"
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
for _ in $(seq 50); do   # slurmctld takes the first port, each node one after it
  port=$((17000 + RANDOM % 12000)) busy=0
  for p in $(seq "$port" $((port + nodes))); do ! listens "$p" || busy=1; done
  [ "$busy" = 1 ] || break
done

host=$(hostname -s)
# 0 is slurmctld.  A daemon's own name comes first and is 127.0.0.1: with NoInAddrAny it listens there and nowhere else.
hosts() {
  local i own=$host
  if [ -n "${NETNS:-}" ]; then
    printf '127.0.0.1 localhost\n10.77.0.1 %s\n' "$host"
    for i in $(seq "$nodes"); do echo "10.77.0.$((i + 10)) n$i"; done
    return
  fi
  [ "$1" = 0 ] || own=n$1
  echo "127.0.0.1 $own localhost"
  for i in $(seq "$nodes"); do [ "$i" = "$1" ] || echo "127.0.1.$((i + 1)) n$i"; done
  [ "$1" = 0 ] || echo "127.0.1.1 $host"
}
for i in $(seq 0 "$nodes"); do hosts "$i" >"$dir/etc/hosts.$i"; done

# The hybrid and missing cgroups of containers stop slurmd's default plugin, which nothing here uses.
echo CgroupPlugin=cgroup/v1 >"$dir/etc/cgroup.conf"
: >"$dir/etc/plugstack.conf"
(umask 077 && head -c 1024 /dev/urandom >"$dir/etc/munge.key")
cat >"$dir/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($([ -n "${NETNS:-}" ] && echo 10.77.0.1 || echo 127.0.0.1))
SlurmctldPort=$port
$([ -n "${NETNS:-}" ] || echo CommunicationParameters=NoInAddrAny,NoCtldInAddrAny)
AuthType=auth/munge
# cred_expire is also how long a requeued job rests: 120 s by default, and below 5 it is ignored.
AuthInfo=socket=$dir/run/munge,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
PlugStackConfig=$dir/etc/plugstack.conf
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=1000
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=86400
KillWait=5
MessageTimeout=10
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.log
CONF
gres=
if [ "$gpus" -gt 0 ]; then   # /dev/null by other names: enough to be counted and handed out
  for i in $(seq 0 $((gpus - 1))); do mknod "$dir/dev/gpu$i" c 1 3; done
  echo GresTypes=gpu >>"$dir/etc/slurm.conf"
  gres=" Gres=gpu:$gpus"
  for i in $(seq 0 $((gpus - 1))); do echo "Name=gpu File=$dir/dev/gpu$i"; done >"$dir/etc/gres.conf"
fi
for i in $(seq "$nodes"); do
  address=127.0.0.1
  [ -z "${NETNS:-}" ] || address=10.77.0.$((i + 10))
  echo "NodeName=n$i NodeHostname=n$i NodeAddr=$address Port=$((port + i)) CPUs=4 RealMemory=16000$gres"
done >>"$dir/etc/slurm.conf"
cat >>"$dir/etc/slurm.conf" <<CONF
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
CONF

# Daemons inherit neither our pipes nor the caller's environment.
start() {
  (cd / && exec env -i PATH="$PATH" HOME=/root LANG=C.UTF-8 SLURM_CONF="$dir/etc/slurm.conf" "$@" \
    </dev/null >>"$dir/log/start.log" 2>&1)
}
inside() { # number of the node, its host name, the command
  local network=()
  [ -z "${NETNS:-}" ] || [ "$1" = 0 ] || network=(nsenter "--net=/run/netns/n$1")
  # shellcheck disable=SC2016  # for the inner shell
  start ${network[@]+"${network[@]}"} unshare --uts --mount --propagation slave sh -c \
    'hostname "$2" && mount --bind "$1" /etc/hosts && shift 2 && exec "$@"' sh "$dir/etc/hosts.$1" "${@:2}"
}
failed() {
  say "$*"
  tail -n 15 "$dir"/log/*.log >&2 || true
  bash "$(dirname "${BASH_SOURCE[0]}")/down.sh" "$dir"
  exit 1
}
export SLURM_CONF=$dir/etc/slurm.conf
start munged --key-file="$dir/etc/munge.key" --socket="$dir/run/munge" --pid-file="$dir/run/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/run/munge.seed" || failed "munged did not start"
inside 0 "$host" slurmctld -f "$SLURM_CONF" || failed "slurmctld did not start"
for i in $(seq "$nodes"); do
  mkdir -p "$dir/spool/n$i"
  inside "$i" "n$i" slurmd -N "n$i" -f "$SLURM_CONF" || failed "slurmd n$i did not start"
done
ready() { [ "$(timeout 15 sinfo -h -N -p main -o %T 2>/dev/null | grep -c -E '^(idle|mixed|allocated)$')" = "$nodes" ]; }
for _ in $(seq 300); do
  ! ready || { echo "export SLURM_CONF=$SLURM_CONF"; exit 0; }
  sleep 0.1
done
failed "not every node came up"
