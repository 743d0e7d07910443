"""Submit jobs of one shape to Slurm, as an array if they are several; the only importer of submitit.

Only the name of a function and a stage's folder are pickled.
"""

import os
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.engines.base import Job
from experiments.engines.slurm.commands import CommandError, output_of
from experiments.engines.slurm.job import FOLDER, run
from experiments.engines.slurm.profile import Cluster
from experiments.worker.import_path import SAFE_PATH
from smaug_core.errors import SmaugError

BUSY = re.compile(
    r"contact slurm controller|timed out|Connection refused|temporarily unable|not responding|Zero Bytes|"
    r"temporarily unavailable|SubmitJob(PerUser)?Limit|JobsLimit|partition not available|slurm_persist_conn",
    re.IGNORECASE,
)
"""Errors of sbatch that may pass: a controller that is away, a limit on jobs, a partition that is down."""

SET_UP = ("set -e", """trap 'echo "set-up line failed: $BASH_COMMAND" >&2' ERR""")
READY = ("trap - ERR", "set +e")
"""Lines around a profile's set-up lines in a job's script: the first that fails ends the job with a message. After a
command sbatch reads no #SBATCH."""


class SubmissionError(SmaugError):
    """Slurm did not take a job."""

    @property
    def passing(self) -> bool:
        """True if another try may succeed; also where sbatch printed nothing, since then a signal ended it."""
        return not str(self).strip() or BUSY.search(str(self)) is not None


def submit_array(jobs: list[Job], folder: Path, name: str, cluster: Cluster) -> list[str]:
    """Submit jobs of one shape, as an array if they are several; return their ids."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    nodes, sources = jobs[0].nodes, jobs[0].env.get("PYTHONPATH", "")
    cpus, gpus, memory_bytes = share_of(jobs[0])
    executor = submitit.SlurmExecutor(folder=folder / "slurm")
    executor.update_parameters(
        job_name=name,
        nodes=nodes,
        ntasks_per_node=1,
        **options_of(cluster, cpus, gpus, memory_bytes),
        exclude=",".join(_nodes_of(jobs[0].exclude)) or None,
        signal_delay_s=cluster.signal_seconds,
        array_parallelism=len(jobs),
        wckey=None,
        stderr_to_stdout=True,
        additional_parameters={"requeue": True, "export": ",".join(cluster.exported)},
        # Since 22.05 srun does not take over the number of CPUs, and without --export it would pass on sbatch's list.
        # A node whose part ends with an error ends the others' parts.
        srun_args=["--export=ALL", f"--cpus-per-task={cpus}", "--kill-on-bad-exit=1"],
        setup=[
            *SET_UP,
            *cluster.setup,
            *READY,
            f"export {FOLDER}={shlex.quote(checked_text(str(folder), 'the home folder'))}",
            f"export PYTHONPATH={shlex.quote(checked_text(sources, 'PYTHONPATH'))} {SAFE_PATH}=1",
            f'cd "${FOLDER}"',
        ],
    )
    try:
        with outside_of_jobs(), _blocked_signals(), executor.batch():
            taken = [executor.submit(run, str(job.directory)) for job in jobs]
        return [job.job_id for job in taken]
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise SubmissionError(_sbatch_message(str(error))) from error


def share_of(job: Job) -> tuple[int, int, int | None]:
    """CPUs, GPUs, and bytes of memory that a job requests on each of its nodes."""
    memory = None if job.memory_bytes is None else job.memory_bytes // job.nodes
    return job.cpus // job.nodes, job.gpus // job.nodes, memory


def options_of(cluster: Cluster, cpus: int, gpus: int, memory_bytes: int | None = None) -> dict[str, str | int | None]:
    """A job's request on each node, by the names of sbatch's options with underscores."""
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


def request_in_words(cluster: Cluster, cpus: int, gpus: int, memory_bytes: int | None = None, nodes: int = 1) -> str:
    """A request for nodes in words: all that a refusal may be about."""
    each = f"{cpus} CPU{'s' if cpus > 1 else ''}"
    node = [f"{nodes} node{'s' if nodes > 1 else ''} with {each}", f"{cluster.memory_mb(cpus, gpus, memory_bytes)} MB"]
    named = {name: getattr(cluster, name) for name in ("partition", "account", "qos", "constraint")}
    given = [f"{name} {value}" for name, value in named.items() if value is not None]
    return ", ".join([*node, *filter(None, [cluster.gres(gpus)]), f"{cluster.time_minutes} minutes", *given])


def _nodes_of(hosts: tuple[str, ...]) -> list[str]:
    """Names by which Slurm knows some machines; it refuses a job that excludes others."""
    if not hosts:
        return []
    try:
        nodes = output_of("sinfo", "--noheader", "--Node", "--format=%N").split()
    except CommandError:
        return []
    short = {host.partition(".")[0] for host in hosts}
    return sorted({node for node in nodes if node in hosts or node.partition(".")[0] in short})


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide variables of a job that this process may run in, and options for sbatch beside a profile's.

    SLURM_CONF stays: it names Slurm's settings.
    """
    from submitit.helpers import clean_env

    settings = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    with clean_env():
        os.environ.update(settings)
        yield


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block signals that a terminal sends to all of a driver's group, so that sbatch inherits that.

    An sbatch that ended after Slurm took its job, and before it printed the id, would leave an unrecorded job.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _sbatch_message(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("sbatch: ")]
    return "; ".join(lines) or text.strip()


def checked_text(text: str, what: str) -> str:
    """Return a text that may be in a script for sbatch."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise SmaugError(f"{what}: {text!r} expected no control characters: it is part of a job's script")
    return text
