#!/usr/bin/env bash
# A real Slurm of two nodes (n0, n1) on this one host, to try slurm.sbatch without a cluster.
#
#   apt-get install slurm-wlm munge         once, as root
#   launch/slurm_local.sh start DIR         state and logs in DIR; prints what to export
#   launch/slurm_local.sh stop DIR
#
# Needs root: it starts munged, slurmctld and two slurmd, and adds n0 and n1 to /etc/hosts.
set -euo pipefail
command=${1:-}
root=${2:-}
if ! [[ "$command" =~ ^(start|stop)$ ]] || [ -z "$root" ]; then
  echo "usage: launch/slurm_local.sh start|stop DIR" >&2
  exit 2
fi

if [ "$command" = stop ]; then
  for file in "$root"/*.pid; do
    if [ -e "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
  done
  exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
  echo "slurm_local.sh: wanted to run as root" >&2
  exit 2
fi
for program in munged slurmctld slurmd; do
  if ! command -v "$program" >/dev/null; then
    echo "slurm_local.sh: no $program here: apt-get install slurm-wlm munge" >&2
    exit 2
  fi
done

mkdir -p "$root/state" "$root/log" /run/munge /var/log/munge /var/lib/munge
chown munge: /run/munge /var/log/munge /var/lib/munge /etc/munge
chmod 755 /run/munge
chmod 700 /etc/munge /var/log/munge
pgrep -x munged >/dev/null || runuser -u munge -- "$(command -v munged)"
for i in 0 1; do
  grep -qw "n$i" /etc/hosts || echo "127.0.0.1 n$i" >>/etc/hosts
  mkdir -p "$root/spool/n$i"
done

host=$(hostname -s)
port=${PORT:-16817}
cores=$(nproc)
node="NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$cores Sockets=1 CoresPerSocket=$cores ThreadsPerCore=1"
cat >"$root/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool/%n
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.%n.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldTimeout=60
SlurmdTimeout=60
KillWait=60
NodeName=n0 Port=$((port + 1)) $node State=UNKNOWN
NodeName=n1 Port=$((port + 2)) $node State=UNKNOWN
PartitionName=debug Nodes=n[0-1] Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
CONF
export SLURM_CONF=$root/slurm.conf
slurmctld -c -f "$SLURM_CONF"
slurmd -N n0 -f "$SLURM_CONF"
slurmd -N n1 -f "$SLURM_CONF"
for _ in $(seq 60); do
  if [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ]; then
    echo "export SLURM_CONF=$SLURM_CONF"
    exit 0
  fi
  sleep 0.5
done
echo "slurm_local.sh: the nodes did not come up, see $root/log" >&2
exit 1
