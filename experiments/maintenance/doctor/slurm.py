"""Checks of a Slurm against a cluster profile: `smaug doctor --cluster`. Nothing is submitted."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from experiments.config.scale import Scale
from experiments.engines.slurm.accounting import DISABLED, seconds_of
from experiments.engines.slurm.commands import CommandError, message_of, run_command
from experiments.engines.slurm.profile import Cluster
from experiments.engines.slurm.submit import BUSY, options_of, outside_of_jobs, request_in_words
from experiments.maintenance.doctor.finding import Finding, fault, fine, warning
from experiments.maintenance.doctor.machine import misfits

UNUSABLE = ("down", "drain", "fail", "error", "unknown", "inval", "maint")
"""Beginnings of states in which a node starts no job. A node that does not respond, with a *, starts none either."""
DEFAULT_OPTIONS = ("SINFO_", "SACCT_")
"""Prefixes of variables that give these commands other default options."""
ACCOUNTS = "slurm accounts"
ESTIMATES = "hours of jobs that are killed are estimates"


@dataclass(slots=True)
class _Partition:
    state: str
    limit: str
    nodes: dict[str, int] = field(default_factory=dict)
    """Number of nodes in each state."""
    usable: int = 0
    """Number of nodes that start jobs, now or after the jobs that they run."""

    def problem(self, name: str, minutes: int) -> Finding | None:
        """Return a finding if jobs of so many minutes would not start in it now, or ever."""
        most_s = seconds_of(self.limit)  # 0 of `infinite`
        if 0 < most_s < 60 * minutes:
            message = f"{name} allows {self.limit}, and the profile asks for {minutes} minutes"
            return fault("slurm partition", message, f"time_minutes: at most {int(most_s // 60)}")
        if self.state == "down":
            message = f"{name} is down: jobs wait until it is up"
        elif self.state != "up":
            message = f"{name} takes no new jobs now ({self.state})"
        elif not self.usable:
            states = ", ".join(f"{count} {state}" for state, count in self.nodes.items()) or "it has none"
            message = f"no node of {name} can start a job now ({states}): jobs wait"
        else:
            return None
        return warning("slurm partition", message, "`sinfo -R` says why; or name another partition")


def check_slurm(cluster: Cluster, scale: Scale) -> Iterator[Finding]:
    """Check Slurm's commands, the profile's partitions and nodes, the scale's stages, and accounting."""
    try:
        answer = _query("sinfo", "--all", "--noheader", "--format=%P|%a|%l|%D|%T")
        if answer.returncode:
            raise CommandError(message_of(answer))
    except CommandError as error:
        yield fault(
            "slurm", f"does not answer: {error}", "run this where sbatch works; SLURM_CONF names other settings"
        )
        return
    partition = _check_partition(cluster, answer.stdout)
    yield partition
    if partition.level == "ok":  # else sbatch refuses for reasons that are reported, or takes what never starts
        yield _whole_node(cluster)
    yield from _check_stages(cluster, scale)
    yield _accounts()


def _check_partition(cluster: Cluster, answer: str) -> Finding:
    """Check the partitions: sbatch accepts jobs for those that are down or allow less time, and they wait for ever."""
    partitions, default = _read_partitions(answer)
    names = [default] if cluster.partition is None else dict.fromkeys(filter(None, cluster.partition.split(",")))
    check, problems, suits = "slurm partition", list[Finding](), list[str]()
    for name in names:
        if name is None or name not in partitions:
            missing = "the profile names none, and there is no default" if name is None else f"there is no {name}"
            problems.append(
                fault(check, missing, f"partition: one of {', '.join(sorted(partitions)) or 'those of sinfo'}")
            )
        elif (problem := partitions[name].problem(name, cluster.time_minutes)) is not None:
            problems.append(problem)
        else:
            limit = partitions[name].limit
            suits.append(f"{name} is up" + ("" if limit in ("infinite", "n/a") else f", and allows {limit}"))
    if suits:
        return fine(check, "; ".join([*suits, *(f"not used: {problem.message}" for problem in problems)]))
    message, fix = ("; ".join(dict.fromkeys(getattr(p, name) for p in problems)) for name in ("message", "fix"))
    return (fault if all(problem.level == "fault" for problem in problems) else warning)(check, message, fix)


def _read_partitions(answer: str) -> tuple[Mapping[str, _Partition], str | None]:
    """Parse sinfo's lines, one for each state of a partition's nodes; return partitions by name, and the default."""
    partitions, default = dict[str, _Partition](), None
    for line in answer.splitlines():
        if line.count("|") != 4:
            continue
        name, state, limit, count, nodes = line.strip().split("|")
        default = name.removesuffix("*") if name.endswith("*") else default
        partition = partitions.setdefault(name.removesuffix("*"), _Partition(state, limit))
        if count.isdecimal() and int(count):
            kind = nodes.rstrip("*~#!%$@^-")
            partition.nodes[kind] = partition.nodes.get(kind, 0) + int(count)
            partition.usable += int(count) * (not nodes.startswith(UNUSABLE) and not nodes.endswith("*"))
    return partitions, default


def _whole_node(cluster: Cluster) -> Finding:
    """Check with sbatch that a job may have a whole node of the profile."""
    check, whole = "slurm node", (cluster, cluster.cpus_per_node, cluster.gpus_per_node)
    given = {name.replace("_", "-"): value for name, value in options_of(*whole).items() if value is not None}
    words, options = request_in_words(*whole), [f"--{name}={value}" for name, value in given.items()]
    try:
        answer = _query("sbatch", "--test-only", "--nodes=1", "--ntasks-per-node=1", *options, "--wrap=true")
    except CommandError as error:
        return fault(check, f"not checked: {error}", "run this where sbatch works")
    message = message_of(answer)
    if answer.returncode == 0:
        start = re.search(r"to start at (\S+)", answer.stderr)
        return fine(check, f"would be given: {words}" + (f"; now it would start at {start[1]}" if start else ""))
    if BUSY.search(message):
        return warning(check, f"not known: Slurm is busy ({message})", "try again")
    of_people = re.search(r"account|qos|association", message, re.IGNORECASE)
    where = "`sacctmgr show associations user=$USER`" if of_people else "`scontrol show node`"
    return fault(check, f"refused: {words} ({message})", f"change the profile; {where} lists what there is")


def _check_stages(cluster: Cluster, scale: Scale) -> Iterator[Finding]:
    check, problems = "slurm stages", misfits(scale, cluster.inventory)
    for problem in problems:
        yield fault(check, f"scale {scale.name}: {problem}", "ask for less in the scale's resources, or larger nodes")
    if not problems:
        yield fine(check, f"those of scale {scale.name} fit the profile's nodes")


def _accounts() -> Finding:
    try:
        answer = _query(
            "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID", "--starttime=now-1minutes"
        )
    except CommandError as error:
        return warning(ACCOUNTS, f"{error}; {ESTIMATES}", "put sacct on PATH, if the cluster keeps accounts")
    if answer.returncode == 0:
        return fine(ACCOUNTS, "kept; hours of jobs that are killed are taken from them")
    if DISABLED in answer.stdout + answer.stderr:
        return fine(ACCOUNTS, f"not kept; {ESTIMATES}")
    return warning(
        ACCOUNTS, f"do not answer ({message_of(answer)}); {ESTIMATES}", "ask the administrators of the cluster"
    )


def _query(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm in the environment in which jobs are submitted.

    Raises:
        CommandError: it cannot be run, or does not end.
    """
    with outside_of_jobs():
        environment = {name: value for name, value in os.environ.items() if not name.startswith(DEFAULT_OPTIONS)}
    return run_command(*command, environment=environment)
