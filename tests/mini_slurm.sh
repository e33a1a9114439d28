#!/usr/bin/env bash
# A real Slurm of one node on this machine, for the test of the cluster path: mini_slurm.sh start|stop FOLDER
# Needs root, and the Debian packages slurmctld slurmd slurm-client munge. Everything lies in FOLDER but
# /etc/slurm/slurm.conf, a link that `stop` removes: Snakemake's executor ignores SLURM_CONF.
set -euo pipefail
folder=$2
config=/etc/slurm/slurm.conf

if [ "$1" = stop ]; then
    for daemon in slurmd slurmctld munged; do
        if [ -s "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true; fi
    done
    if [ "$(readlink $config)" = "$folder/slurm.conf" ]; then rm $config; fi
    exit 0
fi

if [ -e $config ]; then
    echo "$config is there already; this machine belongs to another cluster"
    exit 1
fi
mkdir -p "$folder"/{spool,state} /etc/slurm
mkdir -m 700 "$folder/munge"
head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 600 "$folder/munge/key"
node=$(hostname -s)
hardware=$(slurmd -C | head -n 1) # NodeName=... CPUs=... RealMemory=...
cat >"$folder/slurm.conf" <<EOF
ClusterName=mini
SlurmctldHost=$node(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.run
SlurmdPidFile=$folder/slurmd.run
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
$hardware NodeAddr=127.0.0.1 State=UNKNOWN
PartitionName=test Nodes=$node Default=YES MaxTime=INFINITE State=UP
EOF
ln -sfn "$folder/slurm.conf" $config

launch() { # name, command: in the background, its output in FOLDER/name.log, its process id in FOLDER/name.pid
    setsid "${@:2}" >"$folder/$1.log" 2>&1 </dev/null &
    echo $! >"$folder/$1.pid"
}
launch munged munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
    --pid-file="$folder/munge/pid" --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
for _ in $(seq 50); do
    [ -S "$folder/munge/socket" ] && break
    sleep 0.1
done
launch slurmctld slurmctld -D
sleep 1
launch slurmd slurmd -D
for _ in $(seq 100); do
    if sinfo --noheader --format %T 2>/dev/null | grep -q idle; then exit 0; fi
    sleep 0.2
done
tail -n 20 "$folder"/*.log
echo "the node did not come up"
exit 1
