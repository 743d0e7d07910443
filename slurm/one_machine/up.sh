#!/usr/bin/env bash
# A real Slurm on this machine, for the tests: munged, slurmctld and two slurmd with four fake GPUs each, all in one
# folder of their own. Run it as `make slurm-up`; `make slurm-down` undoes all of it. It needs root and Debian's
# packages slurm-wlm and munge (SMAUG_SLURM_INSTALL=1 lets it install them). With SMAUG_SLURM_ACCOUNTING=1 it keeps
# accounts too: slurmdbd, and a MariaDB that listens on a socket in that folder only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
base=${SMAUG_SLURM_BASE:-/tmp/smaug-slurm}
nodes=(node1 node2)
host=$(hostname -s)
accounting=${SMAUG_SLURM_ACCOUNTING:-}
needed=(slurmctld slurmd munged sbatch)
packages=(slurm-wlm munge)
if [[ $accounting == 1 ]]; then
  needed+=(slurmdbd mariadbd mariadb mariadb-install-db)
  packages+=(slurmdbd mariadb-server-core mariadb-client-core)  # -core: programs only, no service
fi

refuse() { echo "slurm/one_machine: $1" >&2; exit 2; }

# Whether a process that we started, by its pid file, still runs.
ours() { [[ -s $1 ]] && kill -0 "$(cat "$1")" 2>/dev/null; }

[[ ${SMAUG_ONE_MACHINE_SLURM:-} == 1 ]] || refuse \
  "starts system services as root; set SMAUG_ONE_MACHINE_SLURM=1 to allow that on this machine"
[[ $EUID -eq 0 ]] || refuse "needs root, to make device files and to lead Slurm's processes"
if [[ -d $base ]]; then
  [[ -f $base/.smaug-one-machine && -O $base ]] || refuse "$base: exists and was not made by this script; remove it, or set SMAUG_SLURM_BASE"
  if ours "$base/run/slurmctld.pid"; then
    [[ $accounting != 1 ]] || ours "$base/run/slurmdbd.pid" || refuse \
      "it runs already, without accounts; run make slurm-down first"
    echo "it runs already: export SLURM_CONF=$base/slurm.conf"
    exit 0
  fi
  refuse "$base: an earlier one was not removed completely; run make slurm-down"
fi
for file in /etc/slurm/*.conf /etc/slurm-llnl/*.conf; do
  # Debian's package brings an empty plugstack.conf
  [[ ! -e $file || $(basename "$file") == plugstack.conf ]] || refuse "$file: this machine has a Slurm already"
done
for name in slurmctld slurmd slurmdbd munged; do
  if pid=$(pgrep -x "$name" | head -1) && [[ -n $pid ]]; then
    refuse "$name runs already (process $pid), and was not started by this script"
  fi
done

# `command -v` of several is content with one of them.
missing() { for name in "${needed[@]}"; do command -v "$name" >/dev/null || echo "$name"; done; }
if [[ -n $(missing) ]]; then
  [[ ${SMAUG_SLURM_INSTALL:-} == 1 ]] || refuse "apt-get install --no-install-recommends ${packages[*]}: run this first, or set SMAUG_SLURM_INSTALL=1"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${packages[@]}" >/dev/null
fi

umask 022
mkdir -p "$base"/{ctld,log,run,gpu} "${nodes[@]/#/$base/}"
touch "$base/.smaug-one-machine"
chmod 755 "$base"

# Slurm takes only devices for GPUs; these are copies of the null device, and the number becomes the GPU's index.
for gpu in 0 1 2 3; do mknod "$base/gpu/nvidia$gpu" c 1 3; done

# The nodes' names must resolve, for torchrun's rendezvous. Each line says whose it is; slurm-down takes them out.
for node in "${nodes[@]}"; do
  grep -qE "[[:space:]]$node([[:space:]]|\$)" /etc/hosts && continue
  echo "127.0.0.1 $node # smaug one-machine slurm" >>/etc/hosts
done

# A key and a socket of its own: /etc/munge is not touched.
(umask 077; head -c 1024 /dev/urandom >"$base/munge.key"; mkdir -p "$base/munge")
chmod 711 "$base/munge"
munged --key-file="$base/munge.key" --socket="$base/munge/socket" --pid-file="$base/munge/pid" \
  --log-file="$base/munge/log" --seed-file="$base/munge/seed"

# Job ids start from the clock: a fresh Slurm would give old ones again, and their files would be taken for new.
sed -e "s#@BASE@#$base#g" -e "s#@HOST@#$host#g" -e "s#@FIRST@#$(($(date +%s) % 60000000))#" \
  "$here/slurm.conf.in" >"$base/slurm.conf"
sed -e "s#@BASE@#$base#g" "$here/gres.conf.in" >"$base/gres.conf"
echo "CgroupAutomount=no" >"$base/cgroup.conf"

export SLURM_CONF=$base/slurm.conf
if [[ $accounting == 1 ]]; then
  echo "keeping accounts"
  password=$(head -c 24 /dev/urandom | base64 | tr -d '+/=')
  (umask 077; sed -e "s#@BASE@#$base#g" -e "s#@HOST@#$host#g" -e "s#@PASS@#$password#g" \
    "$here/slurmdbd.conf.in" >"$base/slurmdbd.conf")
  sed -e "s#@BASE@#$base#g" "$here/accounting.conf.in" >>"$base/slurm.conf"
  socket=$base/run/db.sock
  mariadb-install-db --no-defaults --user=root --datadir="$base/db" --skip-test-db \
    --auth-root-authentication-method=normal >"$base/log/db.log" 2>&1 || refuse "no database; see $base/log/db.log"
  # Not of this shell's session: it is no daemon by itself, and would end with it.
  setsid mariadbd --no-defaults --user=root --datadir="$base/db" --socket="$socket" --pid-file="$base/run/mariadbd.pid" \
    --skip-networking --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
    --innodb-flush-log-at-trx-commit=0 </dev/null >>"$base/log/db.log" 2>&1 &
  sql() { mariadb --no-defaults --socket="$socket" "$@"; }
  for _ in $(seq 300); do sql -e "select 1" >/dev/null 2>&1 && break; sleep 0.1; done
  sql <<<"create user slurm@localhost identified by '$password'; grant all on slurm_acct_db.* to slurm@localhost;"
  MYSQL_UNIX_PORT=$socket slurmdbd
  # It must know the cluster before that begins.
  for _ in $(seq 300); do timeout 10 sacctmgr --immediate --quiet add cluster one >/dev/null 2>&1 && break; sleep 0.1; done
  [[ -n $(timeout 10 sacctmgr --noheader list cluster) ]] || refuse "no accounts are kept; see $base/log"
fi
slurmctld -i
for node in "${nodes[@]}"; do slurmd -N "$node"; done
for _ in $(seq 200); do
  [[ $(sinfo -h -t idle -o %D 2>/dev/null) == "${#nodes[@]}" ]] && break
  sleep 0.1
done
[[ $(sinfo -h -t idle -o %D) == "${#nodes[@]}" ]] || refuse "the nodes do not come up; see $base/log"
echo "up: export SLURM_CONF=$base/slurm.conf"
