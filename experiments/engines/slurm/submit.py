"""Submits jobs of one shape to Slurm, as an array if they are several; the only importer of submitit.

Only the name of a function and a stage's folder are pickled.
"""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.engines.base import Job
from experiments.engines.slurm.job import FOLDER, run
from experiments.engines.slurm.profile import Cluster
from experiments.worker.import_path import SAFE_PATH
from smaug_core.errors import SmaugError

COMMAND_S = 60.0
"""A command of Slurm's that takes longer gets no answer."""

BUSY = re.compile(
    r"contact slurm controller|timed out|Connection refused|temporarily unable|not responding|Zero Bytes|"
    r"temporarily unavailable|SubmitJob(PerUser)?Limit|JobsLimit|partition not available|slurm_persist_conn",
    re.IGNORECASE,
)
"""What sbatch says when another try may do: a controller that is away, a limit on jobs, a partition that is down."""


SET_UP = ("set -e", """trap 'echo "set-up line failed: $BASH_COMMAND" >&2' ERR""")
READY = ("trap - ERR", "set +e")
"""Around a profile's set-up lines in a job's script: the first that fails ends the job, and says so. After a command
sbatch looks for no #SBATCH."""


class SubmissionError(SmaugError):
    """Slurm did not take a job."""

    @property
    def passing(self) -> bool:
        """Whether another try may do; so it may where sbatch said nothing, for then somebody has ended it."""
        return not str(self).strip() or BUSY.search(str(self)) is not None


def submit_array(jobs: list[Job], folder: Path, name: str, cluster: Cluster) -> list[str]:
    """Submit jobs of one shape, as an array if they are several; gives their ids.

    Raises:
        SubmissionError: Slurm did not take them.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    nodes, sources = jobs[0].nodes, jobs[0].env.get("PYTHONPATH", "")
    cpus, gpus, memory_bytes = share_of(jobs[0])
    executor = submitit.SlurmExecutor(folder=folder / "slurm")
    executor.update_parameters(
        job_name=name,
        nodes=nodes,
        ntasks_per_node=1,
        **asked_of_slurm(cluster, cpus, gpus, memory_bytes),
        exclude=",".join(_nodes_of(jobs[0].exclude)) or None,
        signal_delay_s=cluster.signal_seconds,
        array_parallelism=len(jobs),
        wckey=None,
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, "export": ",".join(cluster.export)},
        # Since 22.05 srun does not take over the number of CPUs, and else it would pass on what sbatch may only.
        # A node whose part ends with an error ends the others' parts.
        srun_args=["--export=ALL", f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        setup=[
            *SET_UP,
            *cluster.setup,
            *READY,
            f"export {FOLDER}={shlex.quote(checked(str(folder), 'the home folder'))}",
            f"export PYTHONPATH={shlex.quote(checked(sources, 'PYTHONPATH'))} {SAFE_PATH}=1",
            f'cd "${FOLDER}"',
        ],
    )
    try:
        with outside_of_jobs(), _out_of_reach(), executor.batch():
            taken = [executor.submit(run, str(job.directory)) for job in jobs]
        return [job.job_id for job in taken]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise SubmissionError(_what_sbatch_said(str(error))) from error


def share_of(job: Job) -> tuple[int, int, int | None]:
    """CPUs, GPUs, and bytes of memory that a job asks for on each of its nodes."""
    memory = None if job.memory_bytes is None else job.memory_bytes // job.nodes
    return job.cpus // job.nodes, job.gpus // job.nodes, memory


def asked_of_slurm(
    cluster: Cluster, cpus: int, gpus: int, memory_bytes: int | None = None
) -> dict[str, str | int | None]:
    """What a job asks of each node, and where, by the names of sbatch's options with underscores."""
    return {
        "time": cluster.time_minutes,
        "cpus_per_task": cpus,
        "gres": cluster.gres(gpus),
        "mem": f"{cluster.memory_mb(cpus, gpus, memory_bytes)}M",
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
    }


def asked_in_words(cluster: Cluster, cpus: int, gpus: int, memory_bytes: int | None = None, nodes: int = 1) -> str:
    """The same in words, of so many nodes: the things that a refusal may be about."""
    each = f"{cpus} CPU{'s' if cpus > 1 else ''}"
    node = [f"{nodes} node{'s' if nodes > 1 else ''} with {each}", f"{cluster.memory_mb(cpus, gpus, memory_bytes)} MB"]
    named = {name: getattr(cluster, name) for name in ("partition", "account", "qos", "constraint")}
    given = [f"{name} {value}" for name, value in named.items() if value is not None]
    return ", ".join([*node, *filter(None, [cluster.gres(gpus)]), f"{cluster.time_minutes} minutes", *given])


def _nodes_of(hosts: tuple[str, ...]) -> list[str]:
    """Those of some machines that Slurm knows by that name; it refuses a job that is to be kept from others."""
    if not hosts:
        return []
    try:
        told = subprocess.run(
            ["sinfo", "--noheader", "--Node", "--format=%N"],
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    short = {host.partition(".")[0] for host in hosts}
    return sorted({node for node in told.stdout.split() if node in hosts or node.partition(".")[0] in short})


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide what a job that we may be in would pass on to others, and what else is asked of sbatch beside a profile.

    Where Slurm's settings are is no such thing.
    """
    from submitit.helpers import clean_env

    settings = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(settings)
        yield


@contextmanager
def _out_of_reach() -> Iterator[None]:
    """Keep from sbatch what a terminal sends to all of a driver's group.

    One that ended after Slurm took its job, and before it said so, would leave a job that nobody noted.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _what_sbatch_said(text: str) -> str:
    said = [line.strip() for line in text.splitlines() if line.strip().startswith("sbatch: ")]
    return "; ".join(said) or text.strip()


def checked(text: str, what: str) -> str:
    """A text that can stand in a script for sbatch.

    Raises:
        SmaugError: it has control characters.
    """
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise SmaugError(f"{what}: {text!r} has control characters, which a job's script may not have")
    return text
