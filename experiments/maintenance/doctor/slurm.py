"""Whether a Slurm takes what a cluster profile asks for: `smaug doctor --cluster`. Nothing is submitted."""

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
"""Beginnings of the states in which a node starts no job; nor does one that does not respond, whose state has a *."""
ASKED_ELSEWHERE = ("SINFO_", "SACCT_")
"""Beginnings of variables that would have these commands answer another question."""
ACCOUNTS = "slurm accounts"
ESTIMATES = "hours of jobs that are killed are estimates"


@dataclass(slots=True)
class _Partition:
    state: str
    limit: str
    nodes: dict[str, int] = field(default_factory=dict)
    """How many nodes are in each state."""
    usable: int = 0
    """How many start jobs, now or when others have ended."""

    def problem(self, name: str, minutes: int) -> Finding | None:
        """Why jobs of so many minutes would not start in it now, or ever."""
        most_s = seconds_of(self.limit)  # 0 of `infinite`
        if 0 < most_s < 60 * minutes:
            found = f"{name} allows {self.limit}, and the profile asks for {minutes} minutes"
            return fault("slurm partition", found, f"time_minutes: at most {int(most_s // 60)}")
        if self.state == "down":
            found = f"{name} is down: jobs wait until it is up"
        elif self.state != "up":
            found = f"{name} takes no new jobs now ({self.state})"
        elif not self.usable:
            states = ", ".join(f"{count} {state}" for state, count in self.nodes.items()) or "it has none"
            found = f"no node of {name} can start a job now ({states}): jobs wait"
        else:
            return None
        return warning("slurm partition", found, "`sinfo -R` says why; or name another partition")


def check_slurm(cluster: Cluster, scale: Scale) -> Iterator[Finding]:
    """Slurm's commands, the profile's partitions, a whole node of the profile, the scale's stages, accounts."""
    try:
        answer = _ask("sinfo", "--all", "--noheader", "--format=%P|%a|%l|%D|%T")
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
    """sbatch takes jobs for partitions that are down or allow less time, and they wait for ever."""
    partitions, default = _read_partitions(answer)
    names = [default] if cluster.partition is None else dict.fromkeys(filter(None, cluster.partition.split(",")))
    check, problems, suits = "slurm partition", list[Finding](), list[str]()
    for name in names:
        if name is None or name not in partitions:
            which = "the profile names none, and there is no default" if name is None else f"there is no {name}"
            problems.append(
                fault(check, which, f"partition: one of {', '.join(sorted(partitions)) or 'those of sinfo'}")
            )
        elif (problem := partitions[name].problem(name, cluster.time_minutes)) is not None:
            problems.append(problem)
        else:
            limit = partitions[name].limit
            suits.append(f"{name} is up" + ("" if limit in ("infinite", "n/a") else f", and allows {limit}"))
    if suits:
        return fine(check, "; ".join([*suits, *(f"not used: {problem.found}" for problem in problems)]))
    found, fix = ("; ".join(dict.fromkeys(getattr(p, what) for p in problems)) for what in ("found", "fix"))
    return (fault if all(problem.level == "fault" for problem in problems) else warning)(check, found, fix)


def _read_partitions(answer: str) -> tuple[Mapping[str, _Partition], str | None]:
    """Partitions by name from sinfo's lines, one for each state that nodes are in; and the default's name."""
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
    """Ask sbatch whether it accepts such a job; the profile lists what a node has."""
    check, whole = "slurm node", (cluster, cluster.cpus_per_node, cluster.gpus_per_node)
    asked = {name.replace("_", "-"): value for name, value in options_of(*whole).items() if value is not None}
    words, options = request_in_words(*whole), [f"--{name}={value}" for name, value in asked.items()]
    try:
        answer = _ask("sbatch", "--test-only", "--nodes=1", "--ntasks-per-node=1", *options, "--wrap=true")
    except CommandError as error:
        return fault(check, f"cannot be asked for: {error}", "run this where sbatch works")
    said = message_of(answer)
    if answer.returncode == 0:
        start = re.search(r"to start at (\S+)", answer.stderr)
        return fine(check, f"would be given: {words}" + (f"; now it would start at {start[1]}" if start else ""))
    if BUSY.search(said):
        return warning(check, f"not known: Slurm is busy ({said})", "try again")
    of_people = re.search(r"account|qos|association", said, re.IGNORECASE)
    where = "`sacctmgr show associations user=$USER`" if of_people else "`scontrol show node`"
    return fault(check, f"refused: {words} ({said})", f"change the profile; {where} lists what there is")


def _check_stages(cluster: Cluster, scale: Scale) -> Iterator[Finding]:
    check, problems = "slurm stages", misfits(scale, cluster.inventory)
    for problem in problems:
        yield fault(check, f"scale {scale.name}: {problem}", "ask for less in the scale's resources, or larger nodes")
    if not problems:
        yield fine(check, f"those of scale {scale.name} fit the profile's nodes")


def _accounts() -> Finding:
    try:
        answer = _ask(
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


def _ask(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of Slurm in the environment in which jobs are submitted.

    Raises:
        CommandError: it cannot be run, or does not end.
    """
    with outside_of_jobs():
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ASKED_ELSEWHERE)}
    return run_command(*command, environment=environment)
