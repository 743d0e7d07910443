"""`smaug doctor`: check everything that a run needs, and advise how to fix it."""

from collections.abc import Iterator
from pathlib import Path

from experiments.config.scale import Scale
from experiments.engines.slurm.profile import Cluster
from experiments.maintenance.doctor import contents, machine
from experiments.maintenance.doctor import home as inspection
from experiments.maintenance.doctor import slurm as slurm_site
from experiments.maintenance.doctor.finding import Finding

MARKS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


def examine(home: Path, scale: Scale, cluster: Cluster | None = None, *, deep: bool = False) -> Iterator[Finding]:
    """Check this machine, and a home folder with the data of a scale; yield each finding at once.

    Files are written to temporary folders only, and nothing is submitted. Libraries that may crash or hang are loaded
    in a process of their own.

    Args:
        cluster: also check that Slurm accepts jobs of this profile; stages need not fit this machine then.
        deep: also compare every published file and checkpoint with its digest.
    """
    yield from machine.check_python()
    yield from machine.check_packages()
    yield from machine.check_torch(scale if cluster is None else None)
    if cluster is None:
        yield from machine.check_shared_memory(scale)
    yield from machine.check_decoder()
    yield from machine.check_ray()
    yield from inspection.check_disk(scale, home)
    yield from inspection.check_mlflow(home)
    yield from inspection.check_stages(home)
    if deep:
        yield from contents.check_contents(home)
    yield from inspection.check_inputs(scale, home)
    if cluster is not None:
        yield from slurm_site.check_slurm(cluster, scale)


def lines_of(finding: Finding) -> Iterator[str]:
    """Format a finding for people."""
    yield f"{MARKS[finding.level]} {finding.check}: {finding.message}"
    if finding.fix:
        yield f"        fix: {finding.fix}"
