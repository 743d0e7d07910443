"""`smaug doctor`: looks at everything that a run needs, one thing after the other, and says how to mend it."""

from collections.abc import Iterator
from pathlib import Path

from experiments import inspection, machine
from experiments.finding import Finding
from experiments.scale import Scale

MARKS = {"ok": "ok     ", "warning": "warning", "fault": "FAULT  "}


def examine(home: Path, scale: Scale) -> Iterator[Finding]:
    """Look at this machine, and at a home folder with the data of a scale; the finding of each thing as it is made.

    Nothing is written but to temporary folders. What may crash or hang is asked in a process of its own.
    """
    yield from machine.check_python()
    yield from machine.check_packages()
    yield from machine.check_torch(scale)
    yield from machine.check_decoder()
    yield from machine.check_ray()
    yield from inspection.check_disk(scale, home)
    yield from inspection.check_mlflow(home)
    yield from inspection.check_stages(home)
    yield from inspection.check_data(scale, home)


def lines_of(finding: Finding) -> Iterator[str]:
    """A finding for people."""
    yield f"{MARKS[finding.level]} {finding.check}: {finding.found}"
    if finding.mend:
        yield f"        mend: {finding.mend}"
