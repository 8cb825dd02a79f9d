#!/bin/bash
# Starts a Slurm cluster of this machine alone, for tests: as root, on Debian, without systemd.
#
#     apt-get install -y slurm-wlm munge
#     scripts/cluster/slurm_localhost.sh start /some/folder
#     export SLURM_CONF=/some/folder/slurm.conf
#     scripts/cluster/slurm_localhost.sh stop /some/folder
#
# A third argument is the number of nodes: NAME-1, NAME-2 … with the cores of this machine each.
#
# The partition "main", of the first node, is preempted by "urgent": its jobs are requeued after 30 s. "all" has all nodes.
set -euo pipefail
action=$1 nodes=${3:-1} folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

stop() {
    for file in "$folder"/slurmd*.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do
        if [ -f "$file" ]; then
            kill "$(cat "$file")" 2>/dev/null || true
        fi
    done
}

start() {
    local host cores memory
    host=$(hostname -s) cores=$(nproc --all) memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024))
    mkdir -p "$folder/state" "$folder/spool"
    [ -f "$folder/munge.key" ] || dd if=/dev/urandom of="$folder/munge.key" bs=1 count=1024 status=none
    chmod 600 "$folder/munge.key"
    cat >"$SLURM_CONF" <<CONF
ClusterName=localhost
SlurmctldHost=$host(127.0.0.1)
AuthInfo=socket=$folder/munge.socket
SlurmUser=root
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$host-[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17001-$((17000 + nodes))] Sockets=1 CoresPerSocket=$cores ThreadsPerCore=1 RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host-1 Default=YES MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=$host-1 MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=2
PartitionName=all Nodes=ALL MaxTime=INFINITE DefaultTime=60 State=UP PriorityTier=1 GraceTime=30
CONF
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    slurmctld -c
    for number in $(seq "$nodes"); do
        slurmd -N "$host-$number"
    done
    for _ in $(seq 60); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
            exit 0
        fi
        sleep 0.5
    done
    tail -n 20 "$folder/slurmctld.log" "$folder"/slurmd-*.log >&2
    exit 1
}

"$action"
