#!/usr/bin/env bash
# A SLURM whose two nodes have a network each, joined by a bridge: the localhost of one is not that of the other.
#   netns.sh DIR COMMAND...      as root; runs COMMAND as on a login node, with SLURM_CONF set, then ends it all
# Everything lies in a namespace without a way out, so that this host's own network is not touched.
# Exit: COMMAND's; 3 this host cannot (not root, no namespaces, bridges or packages).
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cannot() { echo "netns.sh: $*" >&2; exit 3; }

if [ -z "${NETNS:-}" ]; then
  [ "$(id -u)" = 0 ] || cannot "only root may make networks"
  for tool in ip nsenter unshare; do command -v "$tool" >/dev/null || cannot "$tool is not installed"; done
  unshare --net --mount --uts sh -c 'ip link add br0 type bridge && ip link add v1 type veth peer name eth0' \
    2>/dev/null || cannot "namespaces with a network of their own are not permitted here"
  NETNS=1 exec unshare --net --mount --uts --propagation private bash "$0" "$@"
fi

dir=${1:?a folder}
shift
hostname ctl
ip link set lo up
mkdir -p /run/netns
mount -t tmpfs none /run/netns
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip link set br0 up
for i in 1 2; do
  ip netns add "n$i"
  ip link add "v$i" type veth peer name eth0 netns "n$i"
  ip link set "v$i" master br0 up
  ip -n "n$i" addr add "10.77.0.$((i + 10))/24" dev eth0
  ip -n "n$i" link set eth0 up
  ip -n "n$i" link set lo up
done
trap 'bash "$here/down.sh" "$dir"' EXIT
bash "$here/up.sh" "$dir" 2 >/dev/null
SLURM_CONF=$dir/etc/slurm.conf "$@"
