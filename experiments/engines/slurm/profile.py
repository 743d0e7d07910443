"""A cluster profile: a site's names for Slurm's options, and the resources of a node."""

import json
import math
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from experiments.config.scale import PEBIBYTE_GB
from experiments.config.yaml_source import Form, Name, SweepError, form_faults, read_document, spelled
from experiments.engines.base import Inventory, Node
from experiments.stages.memory import GIB

ALWAYS_EXPORTED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SLURM_CONF")
"""Variables that jobs get. Slurm keeps a job's environment on its own disks, where no token belongs."""

OF_JOBS = r"SUBMITIT_|SLURM_(?!CONF$)"
"""Variables that Slurm and submitit set in a job; those of a job that the driver runs in are not passed on."""

YEAR_MINUTES = 365 * 24 * 60
"""Slurm's plan where there is no limit. It accepts more, but counts seconds in 32 bits: 71582790 minutes become 2."""
EARLY_SECONDS = 60
"""Slurm may signal so much earlier than requested: it checks the times of its jobs twice a minute."""


def at_most(limit: int, why: str) -> AfterValidator:
    """Return a form's check of a number; the error names the limit."""

    def check(number: float) -> float:
        if number > limit:
            raise PydanticCustomError("limit", "expected at most {limit}, {why}", {"limit": limit, "why": why})
        return number

    return AfterValidator(check)


Word = Annotated[
    str,
    spelled(r"[A-Za-z0-9_.,:@%+=/&|()\[\]*-]+", "one word of letters, digits and _.,:@%+=/&|()[]*-"),
]
GresType = Annotated[str, spelled(r"[A-Za-z0-9_.+-]+", "the type alone, as a6000 of --gres=gpu:a6000:4")]
Line = Annotated[
    str,
    spelled(r"[^\x00-\x1f\x7f]*", "one line, without control characters"),
    spelled(r"(?!#(SBATCH|PBS|BSUB)\b).*", "a command; what sbatch is asked for, the other keys of a profile say"),
]
"""A line of the script that sbatch reads cannot begin another one."""
Variable = Annotated[
    str,
    spelled(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable alone; its value is taken from your environment"),
    spelled(rf"(?!{OF_JOBS}).*", "one other than SLURM_* and SUBMITIT_*, which a job has of its own"),
    spelled(r"(?!(?i:ALL|NONE|NIL)$).*", "the names of what jobs need; to sbatch this one means all or nothing"),
]


class Cluster(Form):
    """A cluster profile."""

    cluster: Name
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    time_minutes: Annotated[int, at_most(YEAR_MINUTES, "a year: Slurm may take more for less")] = Field(ge=1)
    """Limit of one job."""
    signal_seconds: int = Field(ge=1, le=65535)
    """Time before the limit at which a stage is asked to save; Slurm may ask up to a minute earlier."""
    cpus_per_node: int = Field(ge=1)
    memory_gb_per_node: Annotated[float, at_most(PEBIBYTE_GB, "a pebibyte")] = Field(gt=0, allow_inf_nan=False)
    gpus_per_node: int = Field(ge=0)
    accelerator: Word | None = None
    """The GPUs' type as scales name it."""
    gres_type: GresType | None = None
    """The same as Slurm names it, alone: `a6000` of `gpu:a6000:4`."""
    setup: tuple[Line, ...] = ()
    """Lines of a job's script before Python starts; the first that fails ends the job."""
    export: tuple[Variable, ...] = ()
    """Names of further variables that a job gets from the driver's environment."""

    @property
    def exported(self) -> tuple[str, ...]:
        """Names of all variables that a job gets from the driver's environment."""
        return tuple(dict.fromkeys([*ALWAYS_EXPORTED, *self.export]))

    @property
    def inventory(self) -> Inventory:
        """One of its machines, which are alike; a job may have several."""
        types = () if self.accelerator is None else (self.accelerator,)
        memory = int(self.memory_gb_per_node * GIB)
        node = Node(cpus=self.cpus_per_node, gpus=self.gpus_per_node, accelerators=types, memory_bytes=memory)
        return Inventory((node,), spans=True)

    def memory_mb(self, cpus: int, gpus: int, asked_bytes: int | None = None) -> int:
        """A job's memory on a node: as requested, else its share by its CPUs or its GPUs, whichever is larger."""
        if asked_bytes is not None:
            return math.ceil(asked_bytes / 2**20)
        share = max(cpus / self.cpus_per_node, gpus / self.gpus_per_node if gpus else 0.0)
        return max(1, int(self.memory_gb_per_node * share * 1024))

    def gres(self, gpus: int) -> str | None:
        """Value of sbatch's --gres for GPUs of the cluster's type; None for no GPU."""
        kind = "gpu" if self.gres_type is None else f"gpu:{self.gres_type}"
        return f"{kind}:{gpus}" if gpus else None


def load_cluster(path: Path) -> Cluster:
    """Read and check a profile.

    Raises:
        SweepError: every error of the file.
    """
    document = read_document(path)
    faults = form_faults(document, Cluster)
    minutes, seconds = document.held(int, "time_minutes"), document.held(int, "signal_seconds")
    if minutes > 0 and seconds > 0 and seconds + EARLY_SECONDS >= 60 * minutes:
        whole = f"{seconds}, and the minute that Slurm may be early, are the whole time_minutes ({minutes})"
        message = f"signal_seconds: {whole}; a stage would only save; expected a longer time_minutes"
        faults.append(document.fault(("signal_seconds",), message))
    if document.held(int, "gpus_per_node") == 0:
        for key in ("accelerator", "gres_type"):
            if document.held(str, key):
                message = f"{key}: is a type of GPU, and gpus_per_node is 0; drop it, or say how many there are"
                faults.append(document.fault((key,), message))
    if faults:
        raise SweepError(faults)
    return Cluster.model_validate_json(json.dumps(document.value))
