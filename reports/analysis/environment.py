"""Environment of the results: devices, source, code and libraries, as far as the ledger records them."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from experiments.config.scale import scale_names
from experiments.tracking.reader import StageRow, TrialRow
from reports.analysis.cells import Table

DEFAULT_SCALE = "tiny"
"""Scale of `sweeps/run.py` without --scale."""
SHORT = 12
"""Digits of a digest that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """One thing that results were made with, and how many of them."""

    what: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """All that is known; the most used first."""

    devices: tuple[Used, ...]
    """Devices of stages, with their unit."""
    commits: tuple[Used, ...]
    """Git commits of stages: of the source tree that ran."""
    code: tuple[Used, ...]
    """Code of trials: digests of the source files that made their results."""
    versions: tuple[Used, ...]
    """Versions of stages: Python and the libraries that may change a result."""
    commands: tuple[str, ...]
    """Commands that make the same tables again."""


def environment_of(
    trials: Iterable[TrialRow], stages: Sequence[StageRow], tables: Sequence[Table], files: Mapping[str, str]
) -> Environment:
    """Collect from the ledger how its results were made; `files`: by table, the sweep file that measures it."""
    return Environment(
        devices=_counted(f"{stage.device} ({stage.unit})" for stage in stages),
        commits=_counted(_commit(stage.commit) for stage in stages),
        code=_counted(trial.code[:SHORT] for trial in trials if trial.code),
        versions=_counted(_versions(stage.versions) for stage in stages),
        commands=tuple(_commands(tables, files)),
    )


def _counted(found: Iterable[str]) -> tuple[Used, ...]:
    counts = Counter(found)
    order = sorted(counts, key=lambda what: (-counts[what], what))
    return tuple(Used(what=what, count=counts[what]) for what in order)


def _commit(recorded: str) -> str:
    if not recorded:
        return "not recorded: no git checkout"
    commit = json.loads(recorded)
    return f"{commit['id'][:SHORT]}{', with files changed since' if commit['changed'] else ''}"


def _versions(versions: Mapping[str, str]) -> str:
    if not versions:
        return "not recorded; smaug sync records them for stages of its home folder"
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _commands(tables: Sequence[Table], files: Mapping[str, str]) -> Iterable[str]:
    yield "make setup"
    measured: dict[str, list[str]] = {}
    for table in tables:
        if table.trials and table.measured_by in files:
            measured.setdefault(table.scale, []).append(files[table.measured_by])
    for scale, found in measured.items():
        yield run_command(dict.fromkeys(found), scale)
    yield "make tables report"


def run_command(files: Iterable[str], scale: str) -> str:
    """Command that measures sweep files at a scale; one that does not come with the project is a file of the user's."""
    option = scale if scale in scale_names() else quote(f"path/to/{scale}.yaml")
    return f"python sweeps/run.py {' '.join(files)}" + (
        f" --scale {option}" if scale not in ("", DEFAULT_SCALE) else ""
    )
