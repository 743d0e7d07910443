"""Engines by their names on the command line. The module of an engine is imported when it is made."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from smaug_core.errors import SmaugError

if TYPE_CHECKING:
    from experiments.engines.base import Engine, Inventory
    from experiments.engines.slurm.profile import Cluster


@dataclass(frozen=True, kw_only=True)
class EngineFactory:
    """Makes the engine that was chosen.

    Raises:
        SmaugError: an option belongs to another engine, or is missing.
    """

    name: str
    """A key of `ENGINES`."""
    home: Path
    address: str | None = None
    """Of a Ray cluster; None starts Ray on this machine."""
    cluster_file: Path | None = None
    """Profile of a Slurm cluster."""

    def __post_init__(self) -> None:
        if self.address is not None and self.name != "ray":
            raise SmaugError(f"--address {self.address}: is for Ray; expected --engine ray, got --engine {self.name}")
        if self.cluster_file is not None and self.name != "slurm":
            expected = f"expected --engine slurm, got --engine {self.name}"
            raise SmaugError(f"--cluster {self.cluster_file}: is for Slurm; {expected}")
        if self.cluster_file is None and self.name == "slurm":
            raise SmaugError("--engine slurm: --cluster FILE is missing; expected a profile, e.g. slurm/a6000.yaml")

    def make(self) -> "Engine":
        """Make the engine; it is closed by the caller."""
        return ENGINES[self.name](self)

    def inventory(self) -> "Inventory":
        """Resources to run on: queried from a Ray cluster, read from a Slurm profile, or those of this machine."""
        from experiments.engines.base import local_inventory

        if self.cluster_file is not None:
            return self.cluster.inventory
        if self.address is None:
            return local_inventory()
        with closing(self.make()) as engine:
            return engine.inventory()

    @cached_property
    def cluster(self) -> "Cluster":
        """The profile of the Slurm cluster."""
        from experiments.engines.slurm.profile import load_cluster

        assert self.cluster_file is not None
        return load_cluster(self.cluster_file)


def _ray(choice: EngineFactory) -> "Engine":
    from experiments.engines.ray.engine import RayEngine

    return RayEngine(choice.home, choice.address)


def _inline(choice: EngineFactory) -> "Engine":
    from experiments.engines.inline import InlineEngine

    return InlineEngine()


def _slurm(choice: EngineFactory) -> "Engine":
    from experiments.engines.slurm.engine import SlurmEngine

    return SlurmEngine(choice.home, choice.cluster)


ENGINES: dict[str, Callable[[EngineFactory], "Engine"]] = {"ray": _ray, "inline": _inline, "slurm": _slurm}
"""Engines by the name that `--engine` takes."""
