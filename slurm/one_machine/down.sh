#!/usr/bin/env bash
# Undoes what up.sh did: ends the processes that it started, by their pid files, and takes out what it wrote.
set -euo pipefail
base=${SMAUG_SLURM_BASE:-/tmp/smaug-slurm}
if [[ ! -e $base ]]; then
  echo "slurm/one_machine: nothing is up at $base"
  exit 0
fi
[[ -f $base/.smaug-one-machine && -O $base ]] || { echo "slurm/one_machine: $base was not made by up.sh" >&2; exit 2; }
export SLURM_CONF=$base/slurm.conf

# A pid file may be older than a reboot: the process must also be the one it was.
end() {
  local file=$1 name=$2 pid
  [[ -s $file ]] || return 0
  pid=$(cat "$file")
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$name" ]] || return 0
  kill "$pid" 2>/dev/null || return 0
  for _ in $(seq 100); do [[ -e /proc/$pid ]] || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
}

if [[ -s $base/run/slurmctld.pid ]]; then
  timeout 20 scancel --user=root 2>/dev/null || true
  for _ in $(seq 100); do
    [[ -n $(timeout 10 squeue -h 2>/dev/null) ]] || break
    sleep 0.1
  done
fi
for node in node1 node2; do end "$base/run/$node.pid" slurmd; done
end "$base/run/slurmctld.pid" slurmctld
end "$base/run/slurmdbd.pid" slurmdbd
end "$base/run/mariadbd.pid" mariadbd
end "$base/munge/pid" munged

# Write the file in place: in a container it may be a mount, which cannot be replaced.
kept=$(sed '/# smaug one-machine slurm$/d' /etc/hosts)
printf '%s\n' "$kept" >/etc/hosts
rm -rf "$base"
echo "down"
