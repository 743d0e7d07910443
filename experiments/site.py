"""Whether a Slurm takes what a cluster profile asks for: `smaug doctor --cluster`. Nothing is submitted."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from experiments.engines import Job
from experiments.engines.cluster import OF_JOBS, Cluster
from experiments.engines.slurm_accounting import DISABLED, seconds_of
from experiments.engines.slurm_submit import asked_for
from experiments.finding import Finding, fault, fine, warning
from experiments.machine import misfits
from experiments.scale import Scale
from smaug_core.errors import SmaugError

LIMIT_S = 60.0
"""A command of Slurm's that takes longer gets no answer."""
ACCOUNTS = "slurm accounts"


def check_slurm(cluster: Cluster, scale: Scale) -> Iterator[Finding]:
    """Slurm's commands, the profile's partition, a whole node as the profile tells it, the scale's stages, accounts."""
    told = _ask("sinfo", "--noheader", "--format=%P|%a|%l")
    if isinstance(told, SmaugError):
        yield fault("slurm", f"does not answer: {told}", "run this where sbatch works; SLURM_CONF names other settings")
        return
    yield from _check_partition(cluster, told)
    yield _whole_node(cluster)
    yield from _check_stages(cluster, scale)
    yield _accounts()


def _check_partition(cluster: Cluster, told: str) -> Iterator[Finding]:
    """sbatch takes jobs for a partition that is down, and ones that are longer than it allows: these wait for ever."""
    check, rows = "slurm partition", [line.strip().split("|") for line in told.splitlines() if line.count("|") == 2]
    partitions = {name.removesuffix("*"): (state, limit) for name, state, limit in rows}
    default = next((name.removesuffix("*") for name, _, _ in rows if name.endswith("*")), None)
    names = [default] if cluster.partition is None else cluster.partition.split(",")
    for name in names:
        if name not in partitions:
            which = "the profile names none, and there is no default" if name is None else f"there is no {name}"
            yield fault(check, which, f"partition: one of {', '.join(sorted(partitions)) or 'none'}")
            continue
        state, limit = partitions[name]
        most_s = seconds_of(limit)  # 0 of `infinite`
        if state != "up":
            yield warning(check, f"{name} is {state}; what is submitted waits for it", "see `sinfo`, or take another")
        elif 0 < most_s < 60 * cluster.time_minutes:
            found = f"{name} allows {limit}, and the profile asks for {cluster.time_minutes} minutes"
            yield fault(check, found, f"time_minutes: at most {int(most_s // 60)}")
        else:
            yield fine(check, f"{name} is up, and allows {limit}")


def _whole_node(cluster: Cluster) -> Finding:
    """By sbatch's own word; the profile tells what a node has."""
    check, gpus = "slurm node", cluster.gpus_per_node
    job = Job(name="doctor", command=(), directory=Path(), cpus=cluster.cpus_per_node, gpus=gpus)
    asked = {
        "cpus-per-task": job.cpus,
        "mem": f"{cluster.memory_mb(job.cpus, job.gpus)}M",
        "time": cluster.time_minutes,
        "gres": cluster.gres(job.gpus),
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
    }
    options = [f"--{name}={value}" for name, value in asked.items() if value is not None]
    told = _ask("sbatch", "--test-only", "--nodes=1", "--ntasks-per-node=1", *options, "--wrap=true")
    words = asked_for(job, cluster)
    if isinstance(told, SmaugError):
        return fault(
            check, f"refused: {words} ({told})", "change the profile; `scontrol show node` tells what there is"
        )
    return fine(check, f"would be given: {words}")


def _check_stages(cluster: Cluster, scale: Scale) -> Iterator[Finding]:
    check, problems = "slurm stages", misfits(scale, cluster.inventory)
    for problem in problems:
        yield warning(check, f"scale {scale.name}: {problem}", "plan and run it where there is so much")
    if not problems:
        yield fine(check, f"those of scale {scale.name} fit the profile's nodes")


def _accounts() -> Finding:
    told = _ask("sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID", "--starttime=now-1minutes")
    if not isinstance(told, SmaugError):
        return fine(ACCOUNTS, "kept; hours of jobs that are killed are taken from them")
    if DISABLED in str(told):
        return fine(ACCOUNTS, "not kept; hours of jobs that are killed are estimates")
    return warning(ACCOUNTS, f"do not answer ({told}); hours of jobs that are killed are estimates", "see `sacct`")


def _ask(*command: str) -> str | SmaugError:
    """What a command prints; else, why there is no answer."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=_environment())
    except FileNotFoundError:
        return SmaugError(f"there is no {command[0]} here")
    except (OSError, subprocess.TimeoutExpired) as error:
        return SmaugError(str(error))
    said = "; ".join(filter(None, map(str.strip, (ran.stderr or ran.stdout).splitlines())))
    return ran.stdout if ran.returncode == 0 else SmaugError(said or f"{command[0]} ended with {ran.returncode}")


def _environment() -> dict[str, str]:
    """Without what a job that we may be in would pass on to others."""
    return {name: value for name, value in os.environ.items() if not re.match(OF_JOBS, name)}
