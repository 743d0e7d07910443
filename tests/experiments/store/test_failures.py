"""Classes of failures and what is done about each: by hand, and with real faults in real workers."""

import dataclasses
import io
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from experiments.cli import status_view as overview
from experiments.config.scale import load_scale
from experiments.console import Console
from experiments.engines.base import Engine, Job, JobState
from experiments.engines.inline import InlineEngine
from experiments.maintenance.logs import follow, read_log
from experiments.maintenance.status import Observer
from experiments.run import prepare_data
from experiments.scheduler.events import Event, Summary
from experiments.scheduler.retry import Tries, examine, signature
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.graph import cut_stages
from experiments.stages.stage import Stage
from experiments.store.attempt import NOTHING_SPENT, Attempt, checkpoint_step, claim, read_attempts
from experiments.store.attempt_files import Heartbeat, Owner
from experiments.store.documents import TrialDocument, write_json
from experiments.store.failures import POLICIES, FailureClass, Seen, classify
from experiments.store.process import this_process
from experiments.store.records import RECOMPUTED
from experiments.store.store import Store, stage_record
from experiments.store.trials import trial_record, write_trial
from experiments.worker.device import oom_kills, oom_kills_since
from experiments.worker.launcher import ended_as
from experiments.worker.main import run_stage
from experiments.worker.outcome import DONE, INTERRUPTED
from experiments.worker.signals import StopFlag
from tests.conformance.drivers import wait_until
from tests.documents import read_json
from tests.experiments.finished import HOST
from tests.experiments.made_trials import trial
from tests.experiments.smoke import SCALE
from tests.process_engine import ProcessEngine
from tests.quick_stage import quick_stage

TORCH_OOM = ("OutOfMemoryError", "RuntimeError", "Exception", "BaseException", "object")
RUNTIME = ("RuntimeError", "Exception", "BaseException", "object")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture(params=["inline", "process"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine: Engine = InlineEngine() if request.param == "inline" else ProcessEngine()
    yield engine
    engine.close()


@pytest.fixture
def processes() -> Iterator[ProcessEngine]:
    engine = ProcessEngine()
    yield engine
    engine.close()


def run(
    store: Store, engine: Engine, *stages: Stage, on_event: Callable[[Event], Any] = repr, **options: Any
) -> tuple[Summary, list[tuple[str, str]]]:
    told = []

    def note(event: Event) -> None:
        told.append((event.kind, event.message))
        on_event(event)

    summary = Scheduler(stages, store, engine, data_root=store.home, on_event=note, **options).run()
    return summary, [(kind, message) for kind, message in told if kind in ("retry", "failed", "paused")]


def failures(store: Store, stage: Stage) -> list[tuple[str, str] | None]:
    """Class of each attempt's failure, and what was done."""
    attempts = read_attempts(store.directory(stage))
    return [None if a.failure is None else (a.failure.kind, a.failure.done) for a in attempts]


@pytest.mark.parametrize(("nodes", "host"), [({}, "a"), ({"nodes": 2}, "")])
def test_of_several_machines_nobody_knows_which_was_lost(store: Store, nodes: dict[str, int], host: str) -> None:
    owner = Owner.of(this_process().raw | HOST | {"host": "a", "boot": "b", "started": 0.0} | nodes)
    heartbeat = Heartbeat.of(NOTHING_SPENT | {"time": 0.0})
    attempt = Attempt(number=1, directory=store.home, owner=owner, progress=heartbeat, end=None)
    lost = JobState(True, None, "Slurm ended job 7: NODE_FAIL", "node_lost")
    failure = examine(lost, store.record(quick_stage()), attempt)
    assert (failure.kind, failure.host) == ("node_lost", host)


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (Seen(exceptions=TORCH_OOM, message="OutOfMemoryError: CUDA out of memory."), "gpu_memory"),
        (Seen(exceptions=RUNTIME, message="CUDA error: out of memory"), "gpu_memory"),
        (Seen(exceptions=RUNTIME, message="CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "gpu_memory"),
        (Seen(exceptions=("_ArrayMemoryError", "MemoryError", "Exception")), "host_memory"),
        (Seen(exceptions=RUNTIME, message="DefaultCPUAllocator: can't allocate memory: you tried"), "host_memory"),
        (Seen(exceptions=("OSError",), message="OSError: [Errno 12] Cannot allocate memory"), "host_memory"),
        (Seen(exceptions=RUNTIME, message="DataLoader worker (pid 7) is killed by signal: Killed."), "host_memory"),
        (Seen(exceptions=RUNTIME, message="CUDA error: uncorrectable ECC error encountered"), "node_lost"),
        (Seen(exceptions=RUNTIME, message="NCCL error in: x.cpp:1\nncclSystemError: system error"), "node_lost"),
        (
            Seen(
                exceptions=RUNTIME,
                message="NCCL error in: x.cpp:1\nncclRemoteError: A call failed possibly due to a network"
                " error or a remote process exiting prematurely.",
            ),
            "node_lost",
        ),
        (
            Seen(
                exceptions=RUNTIME,
                message="[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by"
                " peer [10.0.0.7]:33161",
            ),
            "node_lost",
        ),
        (Seen(exceptions=("ConnectionResetError", "OSError"), message="Connection reset by peer"), "user_error"),
        (Seen(exceptions=("DivergedError", "SmaugError"), message="out of memory"), "diverged"),
        (Seen(exceptions=RUNTIME, message="mat1 and mat2 shapes cannot be multiplied"), "user_error"),
        (Seen(exit_code=1, reported="gpu_memory"), "gpu_memory"),
        (Seen(exit_code=75, reported="preempted"), "preempted"),
        (Seen(exit_code=75, reported="preempted", engine="timeout"), "timeout"),
        (Seen(exit_code=1, reported="user_error", engine="timeout"), "user_error"),
        (Seen(exit_code=75, reported="killed", oom_kills=1), "killed"),
        (Seen(exit_code=75), "preempted"),
        (Seen(exit_code=71), "diverged"),
        (Seen(exit_code=-signal.SIGKILL), "killed"),
        (Seen(exit_code=-signal.SIGKILL, oom_kills=1), "host_memory"),
        (Seen(exit_code=137, oom_kills=2), "host_memory"),
        (Seen(exit_code=-signal.SIGSEGV, oom_kills=1), "killed"),
        (Seen(exit_code=-signal.SIGKILL, engine="host_memory"), "host_memory"),
        (Seen(exit_code=-signal.SIGTERM, engine="cancelled"), "cancelled"),
        (Seen(exit_code=None), "node_lost"),
        (Seen(exit_code=None, engine="killed"), "killed"),
        (Seen(exit_code=1), "user_error"),
        (Seen(exit_code=2, reported="storage"), "storage"),
    ],
)
def test_an_ending_has_a_class(seen: Seen, kind: FailureClass) -> None:
    assert classify(seen) == kind


@pytest.mark.parametrize(
    ("kind", "before", "saved", "again"),
    [
        ("killed", 0, [0, 0], [True, False]),
        ("killed", 0, [2, 4, 6], [True, True, False]),
        ("killed", 4, [4, 4], [True, False]),
        ("preempted", 0, [0, 0, 0, 0], [True, True, True, False]),
        ("preempted", 0, [0, 0, 0, 1, 1, 1, 1], [True] * 6 + [False]),
        ("preempted", 0, list(range(50)), [True] * 50),
        ("timeout", 4, [4], [False]),
        ("timeout", 4, [5, 6, 6], [True, True, False]),
        ("node_lost", 0, [0, 0, 0, 0], [True, True, True, False]),
        ("diverged", 0, [9], [False]),
        ("user_error", 0, [9], [False]),
        ("storage", 0, [9], [False]),
    ],
)
def test_tries_are_bounded(kind: FailureClass, before: int, saved: list[int], again: list[bool]) -> None:
    tries = Tries()
    assert [tries.again(kind, before=before, saved=step, alike=0) for step in saved] == again
    assert tries.total == len(saved)


@pytest.mark.parametrize("kind", ["gpu_memory", "host_memory"])
def test_one_more_try_without_memory_whatever_run_made_the_first(kind: FailureClass) -> None:
    assert Tries().again(kind, before=0, saved=0, alike=1)
    assert not Tries().again(kind, before=0, saved=9, alike=2)


def test_every_class_has_a_policy_that_ends(store: Store) -> None:
    for kind in POLICIES:
        tries = Tries()
        often = itertools.takewhile(lambda _, k=kind, t=tries: t.again(k, before=0, saved=3, alike=t.total), range(99))
        assert len(list(often)) <= 3


def test_the_same_error_is_told_by_where_it_was_raised(tmp_path: Path) -> None:
    def trace(line: int, message: str) -> str:
        return f'Traceback (most recent call last):\n  File "a.py", line {line}, in f\n    x()\n{message}\n'

    one = signature("ValueError: step 3", trace(7, "ValueError: step 3"))
    assert one == signature("ValueError: step 99", trace(7, "ValueError: step 99"))
    assert one != signature("ValueError: step 3", trace(8, "ValueError: step 3"))
    assert one != signature("KeyError: 3", trace(7, "KeyError: 3"))
    assert signature("no clips", "") == "no clips"


def test_the_same_error_of_two_jobs_is_told_in_spite_of_their_ids() -> None:
    def said(address: str, job: str, node: str) -> str:
        script = f"/spool/{node}/job{job}/slurm_script: line 9: no such module"
        return f"{script}; thread {address}; StepId={job}.0 ended (/home/slurm/{job}_1_0_log.out) of job {job}_1"

    one = said("0x00007f12ab", "00041", "node1")
    assert signature(one, "") == signature(said("0x00007fffff", "00042", "node2"), "")
    assert signature(one, "") != signature(one.replace("module", "file"), "")


def test_without_gpu_memory_a_stage_is_tried_once_more_with_layers_recomputed(store: Store, engine: Engine) -> None:
    stage = quick_stage(no_gpu_memory_at=2, until_recomputed=True)
    summary, told = run(store, engine, stage)
    assert summary.done == [stage]
    cause = "OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB"
    done = "tried again with layers computed again in the backward pass"
    assert told == [("retry", f"GPU out of memory: {cause}; {done}")]
    assert failures(store, stage) == [("gpu_memory", done), None]
    first, second = read_attempts(store.directory(stage))
    assert first.end is not None and (first.state, first.end.failure) == ("failed", "gpu_memory")
    assert not first.owner.recompute_layers and second.owner.recompute_layers
    result = store.result(stage)
    assert result is not None and result.recompute_layers
    assert store.record(stage).hours.billed * 3600 == pytest.approx(sum(a.last.spent_s for a in (first, second)))


def test_without_gpu_memory_for_recomputed_layers_it_fails_and_names_the_batch(store: Store, engine: Engine) -> None:
    stage = quick_stage(batch_size=8, no_gpu_memory_at=2)
    summary, _ = run(store, engine, stage)
    ((_, message),) = summary.failed
    assert message.startswith("GPU out of memory: OutOfMemoryError: CUDA out of memory.")
    assert "; pretrain.batch_size 8 does not fit on 0 x " in message
    assert [kind for kind, _ in failures(store, stage)] == ["gpu_memory"] * 2  # type: ignore[misc]
    again, told = run(store, engine, stage)
    assert again.failed[0][1].startswith("failed before (") and len(read_attempts(store.directory(stage))) == 2


def test_an_evaluation_without_gpu_memory_is_not_tried_again(store: Store, processes: ProcessEngine) -> None:
    stage = quick_stage("evaluate", seed=None, no_gpu_memory_at=1)
    summary, told = run(store, processes, stage)
    assert [kind for kind, _ in told] == ["failed"]
    assert summary.failed[0][1].startswith("GPU out of memory: ")


def test_a_driver_that_died_before_the_second_try_leaves_it_to_the_next(store: Store) -> None:
    stage, engine = quick_stage(no_gpu_memory_at=2, until_recomputed=True), InlineEngine()

    class Died(Exception):
        pass

    def die(event: Event) -> None:
        if event.kind == "retry":
            raise Died

    with pytest.raises(Died):
        run(store, engine, stage, on_event=die)
    assert store.record(stage).state == "failed"
    summary, told = run(store, InlineEngine(), stage)
    assert (summary.done, told) == ([stage], [])


def test_without_host_memory_a_stage_is_tried_once_more(store: Store, engine: Engine) -> None:
    once = quick_stage(no_host_memory_at=2, times=1)
    always = quick_stage(no_host_memory_at=2, seed=7)
    summary, told = run(store, engine, once, always)
    assert summary.done == [once]
    message = "host out of memory: MemoryError: told to want too much"
    assert told.count(("retry", message)) == 2
    assert summary.failed == [(always, f"stopped 2 times, no further than step 0: {message}")]
    assert failures(store, always) == [("host_memory", "tried again"), ("host_memory", "not tried again")]
    assert not summary.paused


def test_a_worker_that_the_kernel_killed_for_memory_is_told_by_the_kernels_count(
    store: Store, processes: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill is real; that the kernel did it is what its count would say."""
    monkeypatch.setattr("experiments.scheduler.retry.oom_kills_since", lambda before: 1)
    stage = quick_stage(steps=5, kill_at=2, kills=9)
    summary, told = run(store, processes, stage)
    seen = "killed by SIGKILL; the kernel killed 1 for want of memory meanwhile"
    assert summary.failed == [(stage, f"stopped 2 times, no further than step 0: host out of memory: {seen}")]
    assert [failure and failure[0] for failure in failures(store, stage)] == ["host_memory"] * 2


@pytest.fixture
def narrow() -> Iterator[Path]:
    """A control group whose processes get 512 MiB."""
    folder = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
    group = folder / f"smaug-test-{os.getpid()}"
    limit = "memory.limit_in_bytes" if folder.name == "memory" else "memory.max"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error.strerror}): run as root, with /sys/fs/cgroup writable")
    try:
        if not (group / limit).exists():
            pytest.skip(f"{group}: has no {limit}; the memory controller is not passed on here")
        (group / limit).write_text(str(2**29))
        yield group
    finally:
        group.rmdir()


def test_a_worker_that_the_kernel_really_kills_for_memory(
    store: Store, processes: ProcessEngine, narrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = processes.submit

    def submit_there(job: Job) -> None:
        inside = ("sh", "-c", f'echo $$ > {narrow}/cgroup.procs; exec "$@"', "sh")
        submit(dataclasses.replace(job, command=inside + job.command))

    monkeypatch.setattr(processes, "submit", submit_there)
    stage = quick_stage(eat_at=2)
    summary, told = run(store, processes, stage)
    seen = "host out of memory: killed by SIGKILL; the kernel killed 1 for want of memory meanwhile"
    assert told[0] == ("retry", seen)
    assert summary.failed == [(stage, f"stopped 2 times, no further than step 0: {seen}")]


def test_the_kernels_count_is_read_where_it_was_read_before(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 0\n")
    assert oom_kills_since({str(events): 3}) == 0
    assert oom_kills_since({str(events): 1}) == 2
    assert oom_kills_since({str(tmp_path / "gone"): 1}) == 0
    assert oom_kills_since({}) == 0
    assert oom_kills_since(oom_kills()) == 0


def test_a_kill_is_noted_beside_the_attempt_and_told_by_status(store: Store, processes: ProcessEngine) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, kill_at=3, kills=9)
    summary, _ = run(store, processes, stage)
    assert summary.failed == [(stage, "stopped 2 times, no further than step 2: killed by SIGKILL")]
    assert failures(store, stage) == [("killed", "tried again"), ("killed", "not tried again")]
    assert checkpoint_step(store.directory(stage)) == 2


def shown(store: Store) -> str:
    text = io.StringIO()
    overview.show(Observer(store.home).poll(), Console(file=text), store.home)
    return text.getvalue()


def test_a_failure_is_told_by_status_logs_and_the_attempts_account(store: Store, processes: ProcessEngine) -> None:
    made = trial(pretrain={"kill_at": 2, "kills": 2})
    first = made.stages[0]
    write_trial(store.home, made)
    run(store, processes, *made.stages)
    line = "killed: killed by SIGKILL; not tried again"
    assert f"stopped\n  pretrain 50%: {line}\n    {store.directory(first)}\n" in shown(store)
    log = read_log(store.directory(first))
    assert log.ending().endswith(f")\n{line}\n")
    assert log.to_json()["failure"]["class"] == "killed"
    facts = stage_record(store.home, first.kind, first.fingerprint)
    assert facts is not None
    told = [account["failure"] for account in facts.account()]
    assert [(each["class"], each["done"]) for each in told] == [
        ("killed", "tried again"),
        ("killed", "not tried again"),
    ]
    run(store, processes, *made.stages)
    assert "stopped" not in shown(store) and line not in shown(store)


class Refusing(ProcessEngine):
    """Ends what it is given, as Slurm does whose set-up lines fail; then as one whose job was taken from the queue."""

    def __init__(self, *ends: JobState) -> None:
        super().__init__()
        self.ends = list(ends)
        self.ended: dict[str, JobState] = {}

    def submit(self, job: Job) -> None:
        self.ended[job.name] = self.ends.pop(0)

    def poll(self) -> dict[str, JobState]:
        return self.ended


SET_UP = JobState(True, None, "its job failed before the stage began: no such module", "user_error")
SCANCEL = JobState(True, None, "Slurm ended job 7: CANCELLED", "cancelled")


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_job_that_ended_before_it_made_an_attempt_leaves_why(store: Store, attempts: int) -> None:
    made = trial(pretrain={"steps": 8, "checkpoint_every": 1, "kill_at": 2, "kills": attempts})
    stage = made.stages[0]
    write_trial(store.home, made)
    for _ in range(attempts):
        killed = subprocess.run([sys.executable, "-m", "experiments.worker", store.prepare(stage)], check=False)
        assert killed.returncode == -signal.SIGKILL
    for end, line in (
        (SET_UP, f"error: {SET_UP.message}; not tried again"),
        (SCANCEL, f"cancelled: {SCANCEL.message}; the same command continues"),
    ):
        run(store, Refusing(end), stage)
        assert f"stopped\n  pretrain 50%: {line}\n" in shown(store)
        log = read_log(store.directory(stage))
        assert log.ending().endswith(f"{line}\n") and log.to_json()["failure"]["seen"] in line
        said: list[str] = []
        follow(store.directory(stage), said.append, repr)
        assert said[-1].endswith(f"{line}\n")
    assert run(store, InlineEngine(), stage)[0].done == [stage]
    assert "pretrain 50%" not in shown(store) and read_log(store.directory(stage)).early is None


def test_a_row_with_recomputed_layers_is_marked(store: Store) -> None:
    made = trial(pretrain={"no_gpu_memory_at": 2, "until_recomputed": True})
    document = TrialDocument.of(read_json(write_trial(store.home, made)))
    assert run(store, InlineEngine(), *made.stages)[0].complete
    assert trial_record(store.home, document).marks == [RECOMPUTED]


def test_a_process_of_several_that_lacks_gpu_memory_is_told_and_recomputes_in_the_next_try(store: Store) -> None:
    stage = quick_stage(no_gpu_memory_at=2, until_recomputed=True, rank=1, hold_at=2)
    directory = store.prepare(stage)
    options: dict[str, Any] = {"data_root": store.home, "device": "cpu", "stop": StopFlag(), "processes": 2}
    run_stage(directory, **options)
    (directory / "go").touch()
    (attempt,) = read_attempts(directory)
    assert (attempt.state, attempt.failed_as) == ("failed", "gpu_memory")
    assert run_stage(directory, **options, recompute_layers=True) == DONE


@pytest.mark.slow
def test_a_real_training_with_recomputed_layers_gives_the_same_numbers(tmp_path: Path) -> None:
    file = tmp_path / "smoke.yaml"
    file.write_text(SCALE)
    scale = load_scale(str(file))
    prepare_data([scale.base_config()], tmp_path / "data", Console(file=io.StringIO()))
    stage = next(stage for stage in cut_stages(scale.base_config(), scale.resources, 0, 0) if stage.kind == "pretrain")
    weights = []
    for wanted in (False, True):
        store = Store(tmp_path / str(wanted))
        directory = store.prepare(stage)
        options: dict[str, Any] = {"data_root": tmp_path / "data", "device": "cpu", "stop": StopFlag()}
        assert run_stage(directory, **options, recompute_layers=wanted) == DONE
        weights.append(load_file(directory / "model" / "model.safetensors"))
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())


def test_sigterm_to_a_worker_is_a_preemption(store: Store, processes: ProcessEngine) -> None:
    stage = quick_stage(steps=3, hold_at=2)
    sent: list[int] = []

    def terminate_once(event: Event) -> None:
        if event.attempt is not None and event.attempt.progress.step == 1 and not sent:
            sent.append(event.attempt.owner.pid)
            os.kill(sent[0], signal.SIGTERM)

    summary, told = run(store, processes, stage, on_event=terminate_once)
    assert summary.done == [stage]
    assert told == [("retry", "preempted: stopped after step 2 of 3")]
    assert failures(store, stage) == [("preempted", "tried again"), None]


def test_the_same_error_in_two_stages_pauses_and_what_runs_goes_on(store: Store, processes: ProcessEngine) -> None:
    first, second = quick_stage(fail_at=2, seed=1), quick_stage(fail_at=2, seed=2)
    running, never = quick_stage(hold_at=2, seed=3), quick_stage("finetune", parents=(quick_stage(hold_at=2, seed=3),))

    def release(event: Event) -> None:
        if event.kind == "paused":
            (store.directory(running) / "go").touch()

    summary, told = run(store, processes, first, second, running, never, on_event=release)
    assert {stage.seed for stage, _ in summary.failed} == {1, 2}
    assert summary.done == [running] and not store.directory(never).exists()
    assert not summary.complete and not summary.interrupted
    assert "failed with the same error: RuntimeError: told to fail at step 2 (File " in summary.paused
    assert "quick_stage.py" in summary.paused and "--retry-failed" in summary.paused
    assert [kind for kind, _ in told].count("paused") == 1
    again, _ = run(store, processes, first, second, running, never)
    assert again.done == [never] and not again.paused, "the rest goes on without them"


def test_on_one_slot_after_another_nothing_is_begun_after_the_second_error(store: Store) -> None:
    """Inline, which runs a stage while it is submitted."""
    stages = [quick_stage(fail_at=2, seed=1), quick_stage(seed=2), quick_stage(fail_at=2, seed=3), quick_stage(seed=4)]
    summary, _ = run(store, InlineEngine(), *stages)
    assert summary.paused and len(summary.failed) == 2 and summary.done == [stages[1]]
    assert not store.directory(stages[3]).exists()


class Queueing(ProcessEngine):
    """Runs two jobs at once; of those that wait, one begins just when it is cancelled, as on a real engine."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[str, Job] = {}
        self.withdrawn: dict[str, JobState] = {}

    def submit(self, job: Job) -> None:
        if len(self.submitted) < 2:
            super().submit(job)
        else:
            self.waiting[job.name] = job

    def poll(self) -> dict[str, JobState]:
        return {name: JobState(False) for name in self.waiting} | self.withdrawn | dict(super().poll())

    def cancel(self, name: str) -> None:
        job = self.waiting.pop(name)
        if len(self.submitted) == 2:
            super().submit(job)
            wait_until(lambda: (job.directory / "trail.txt").exists())
            super().cancel(name)
        else:
            self.withdrawn[name] = JobState(True, INTERRUPTED, "cancelled before it started")


def test_what_waits_in_an_engines_queue_when_a_run_pauses_is_taken_back(store: Store) -> None:
    engine = Queueing()
    failing = [quick_stage(fail_at=2, seed=seed) for seed in (1, 2)]
    begun, waiting = (quick_stage(hold_at=2, seed=seed) for seed in (3, 4))
    with closing(engine):
        summary, told = run(store, engine, *failing, begun, waiting)
    assert summary.paused and {stage.seed for stage, _ in summary.failed} == {1, 2} and not summary.interrupted
    assert [kind for kind, _ in told] == ["failed", "failed", "paused"]
    assert failures(store, begun) == [("cancelled", "stopped with the run; the same command continues")]
    assert read_attempts(store.directory(waiting)) == []
    for stage in (begun, waiting):
        (store.directory(stage) / "go").touch()
    with closing(ProcessEngine()) as another:
        again, _ = run(store, another, *failing, begun, waiting)
    assert len(again.done) == 2 and store.record(begun).attempts[-1].state == "done"


def test_errors_that_differ_do_not_pause(store: Store, engine: Engine) -> None:
    stages = quick_stage(fail_at=2), quick_stage(refuse_at=2), quick_stage(diverge_at=2), quick_stage(diverge_at=2, a=1)
    summary, _ = run(store, engine, *stages, quick_stage(seed=5))
    assert len(summary.failed) == 4 and len(summary.done) == 1 and not summary.paused


class Losing(InlineEngine):
    """Loses a job after it ran, as often as told, and says why in its own word."""

    def __init__(self, *reasons: FailureClass) -> None:
        super().__init__()
        self._reasons = list(reasons)
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        if self._reasons:
            lease = claim(job.directory, HOST | {"host": "node1", "boot": "other", "pid": 1})
            write_json(lease.directory / "progress.json", read_attempts(job.directory)[-1].progress.raw | {"time": 0.0})
            self._states[job.name] = JobState(True, None, "as the engine says", self._reasons.pop(0))
        else:
            super().submit(job)


def test_a_lost_node_is_kept_away_from(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    stage, engine = quick_stage(), Losing("node_lost", "node_lost")
    summary, told = run(store, engine, stage)
    assert summary.done == [stage]
    assert [job.exclude for job in engine.jobs] == [(), ("node1",), ("node1",)]
    message = "node lost: as the engine says; tried again, away from node1 where the engine can"
    assert told == [("retry", message)] * 2
    assert "was lost on node1; no other machine has what it asks for" in caplog.messages[-1], "inline has but one"


def test_a_stage_out_of_time_that_saved_nothing_is_not_tried_again(store: Store) -> None:
    stage = quick_stage()
    summary, _ = run(store, Losing("timeout"), stage)
    assert summary.failed == [(stage, "stopped 1 time, no further than step 0: out of time: as the engine says")]


def test_what_the_engines_own_command_cancelled_is_cancelled(store: Store) -> None:
    stage = quick_stage()
    summary, _ = run(store, Losing("cancelled"), stage)
    assert [s for s, _ in summary.cancelled] == [stage] and not summary.failed
    assert failures(store, stage) == [("cancelled", "the same command continues")]


def test_ranks_that_the_kernel_killed_for_memory() -> None:
    notes: list[dict[str, Any]] = [{"pid": 1}, {"pid": 2}]
    assert ended_as(notes, 1).failure == "killed"
    assert ended_as(notes, 1, oom_kills=1).failure == "host_memory"
