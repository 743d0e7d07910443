#!/usr/bin/env bash
# A Ray cluster in a Slurm allocation, for `smaug run SWEEP --engine ray --address HOST:PORT`. From the source tree:
#
#   sbatch slurm/ray_cluster.sh                              # the cluster; its log shows how to use it
#   sbatch slurm/ray_cluster.sh sweeps/masking_ratio.yaml    # the cluster, and a sweep in it: arguments of `smaug run`
#
# Edit these lines, or pass the options to sbatch. Ray gets what the job has on each node, and no more.
#SBATCH --job-name=smaug-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
##SBATCH --cpus-per-task=64
##SBATCH --gres=gpu:a6000:4
##SBATCH --mem=480G
##SBATCH --partition=gpu
##SBATCH --account=my_group
#SBATCH --time=1-00:00:00
# Two minutes before the limit the stages are asked to save. A lost node ends its own stages only.
#SBATCH --signal=B:TERM@120
#SBATCH --no-kill
#SBATCH --open-mode=append
# Slurm keeps a job's environment on its disks: name what the job needs, and no secrets.
#SBATCH --export=PATH,HOME,USER,LOGNAME,LANG,LC_ALL,SSL_CERT_FILE,SLURM_CONF,XDG_CONFIG_HOME,HF_HOME,MLFLOW_TRACKING_URI,SMAUG_HOME,SMAUG_PYTHON,SMAUG_ACCELERATOR,SMAUG_RAY_JOIN_S
#
# SMAUG_HOME         the home folder, which all nodes see (default: .smaug in the source tree)
# SMAUG_PYTHON       Python with SMAUG's packages (default: .venv/bin/python in the source tree)
# SMAUG_ACCELERATOR  type of the GPUs, as a scale's `resources` name it, if their driver does not report it
# SMAUG_RAY_JOIN_S   seconds in which all nodes must have joined (default: 120)
set -euo pipefail

refuse() { echo "slurm/ray_cluster.sh: $1" >&2; exit 2; }

[[ -n ${SLURM_JOB_ID:-} && -n ${SLURM_JOB_NUM_NODES:-} ]] || refuse \
  "must run in an allocation; expected: sbatch --nodes=2 slurm/ray_cluster.sh"
root=$PWD
[[ -f $root/experiments/engines/ray/node.py ]] || refuse \
  "$root is not the source tree; submit from there, or use sbatch --chdir=ROOT"
python=${SMAUG_PYTHON:-$root/.venv/bin/python}
[[ -x $python ]] || refuse "$python not found; run make setup, or set SMAUG_PYTHON"
home=${SMAUG_HOME:-$root/.smaug}
export PYTHONPATH=$root PYTHONSAFEPATH=1 SMAUG_RAY_JOIN_S=${SMAUG_RAY_JOIN_S:-120}
[[ $SMAUG_RAY_JOIN_S =~ ^[1-9][0-9]*$ ]] || refuse \
  "SMAUG_RAY_JOIN_S: expected a number of seconds, e.g. 120, got $SMAUG_RAY_JOIN_S"

mkdir -p "$home/ray-clusters"
home=$(cd "$home" && pwd -P)
job=${SLURM_CLUSTER_NAME:-slurm}-$SLURM_JOB_ID
rm -rf "$home/ray-clusters/$job"-*  # of this job before it was requeued
folder=$(mktemp -d "$home/ray-clusters/$job-XXXXXX")

nodes=
driver=
# End with a code: the driver first, which has its stages saved, then Ray on all nodes, which wait for their workers.
end() {
  trap '' TERM INT HUP
  trap - EXIT
  rm -f "$folder/token" "$folder/ready"
  if [[ -n $driver ]]; then
    kill -TERM "$driver" 2>/dev/null || true
    wait "$driver" || true
  fi
  if [[ -n $nodes ]]; then
    # On SIGTERM srun itself would kill its tasks.
    [[ -f $folder/step ]] && timeout 20 scancel --signal=TERM "$SLURM_JOB_ID.$(cat "$folder/step")" 2>/dev/null ||
      kill -TERM "$nodes" 2>/dev/null || true
    wait "$nodes" || true
  fi
  rm -rf "$folder"
  exit "$1"
}
fail() {
  tail -n 20 "$folder"/node-*.log >&2 || true
  echo "slurm/ray_cluster.sh: $1" >&2
  end 1
}
trap 'end 1' EXIT
# A cluster that is asked to end has done its work; a sweep has not.
trap 'if [[ -n $driver ]]; then end 143; else end 0; fi' TERM INT HUP
(umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$folder/token")

# Nodes that end do not end the others, so that Ray can continue without them.
srun --export=ALL --overlap --no-kill --kill-on-bad-exit=0 --nodes="$SLURM_JOB_NUM_NODES" \
  --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  "$python" -m experiments.engines.ray.node "$folder" &
nodes=$!

count() { find "$folder" -name "$1-*" | wc -l; }
while (($(count joined) < SLURM_JOB_NUM_NODES)); do
  kill -0 "$nodes" 2>/dev/null || fail "Ray did not start on any node"
  (($(count failed) == 0)) || fail "Ray ended on $(count failed) of $SLURM_JOB_NUM_NODES nodes"
  ((SECONDS <= SMAUG_RAY_JOIN_S)) || fail \
    "$(count joined) of $SLURM_JOB_NUM_NODES nodes joined within $SMAUG_RAY_JOIN_S s (SMAUG_RAY_JOIN_S)"
  sleep 0.2
done

echo "Ray has:"
cat "$folder"/joined-*
if grep -q ": 1 CPUs," "$folder"/joined-*; then
  echo "slurm/ray_cluster.sh: a node has 1 CPU; expected as many as stages need, e.g. sbatch --cpus-per-task=64" >&2
fi

address=$(cat "$folder/address")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token
if (($# == 0)); then
  host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
  let_in="PYTHONPATH=$(printf %q "$root") RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$(printf %q "$folder/token")"
  use="$(printf %q "$python") -P -m experiments.cli run SWEEP --home $(printf %q "$home") --engine ray --address $address"
  cat >"$folder/.ready" <<END
address: $address
token: $folder/token
nodes: $SLURM_JOB_NUM_NODES
on a node of the cluster: $let_in $use
from elsewhere: $let_in srun --jobid=$SLURM_JOB_ID --overlap --nodes=1 --ntasks=1 --nodelist=$host $use
END
  mv "$folder/.ready" "$folder/ready"
  cat "$folder/ready"
  # Nodes that were asked to end, as by scancel --signal=TERM, end with 0.
  if wait "$nodes"; then end 0; fi
  fail "Ray ended"
fi
"$python" -m experiments.cli run "$@" --home "$home" --engine ray --address "$address" &
driver=$!
code=0
wait "$driver" || code=$?
end "$code"
