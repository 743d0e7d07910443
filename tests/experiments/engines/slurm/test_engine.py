"""The Slurm engine against commands that answer as told: what is an end, what is another try, what is no text."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.engines.base import Job, JobState
from experiments.engines.slurm.ends import SHOWN_WITHIN_S, SubmittedJob, end_of
from experiments.engines.slurm.engine import SlurmEngine
from experiments.engines.slurm.job import ExitRecord
from experiments.engines.slurm.profile import load_cluster
from experiments.engines.slurm.queue import QueueSnapshot, QueueStatus
from experiments.engines.slurm.submit import SubmissionError
from experiments.store.attempt import claim
from experiments.store.documents import StoreError, write_json
from experiments.store.failures import FailureClass
from experiments.worker.outcome import BAD_INPUT, DONE, INTERRUPTED
from smaug_core.errors import SmaugError
from tests.conformance.drivers import wait_until
from tests.experiments.finished import HOST
from tests.faults import full_disk
from tests.slurm_cluster import PROFILE


@pytest.fixture
def placed(tmp_path: Path) -> SubmittedJob:
    job = Job(name="f" * 64, command=("true",), directory=tmp_path / "f", cpus=1, gpus=0)
    return SubmittedJob(job, "7_1", tmp_path, since=100.0)


def told(code: int, reason: str | None = None) -> ExitRecord:
    return ExitRecord.of({"exit_code": code, "reason": reason})


def look(state: str, asked: float = 101.0) -> QueueSnapshot:
    return QueueSnapshot(asked, {"7_1": QueueStatus(state, "None")})


def test_what_a_worker_says_is_its_end_unless_it_was_interrupted(placed: SubmittedJob) -> None:
    assert end_of(placed, told(DONE), QueueSnapshot()) == JobState(True, DONE)
    assert end_of(placed, told(BAD_INPUT), look("RUNNING")) == JobState(True, BAD_INPUT)
    for state in ("RUNNING", "COMPLETING", "PENDING"):
        assert end_of(placed, told(INTERRUPTED), look(state)) is None, "it may be in the queue again"
    assert end_of(placed, told(INTERRUPTED), look("COMPLETED")) == JobState(True, INTERRUPTED)


def test_slurm_tells_the_end_of_a_job_that_said_nothing(placed: SubmittedJob) -> None:
    assert end_of(placed, None, look("PENDING")) is None
    lost = JobState(True, None, "Slurm ended job 7_1: NODE_FAIL", "node_lost")
    assert end_of(placed, None, look("NODE_FAIL")) == lost
    assert end_of(placed, None, look("FAILED")) == JobState(True, None, "Slurm ended job 7_1: FAILED", "killed")
    placed.cancelled = True
    assert end_of(placed, None, look("CANCELLED")) == JobState(True, INTERRUPTED, "cancelled before it started")


@pytest.mark.parametrize(
    ("state", "reason"), [("TIMEOUT", "timeout"), ("CANCELLED", "cancelled"), ("OUT_OF_MEMORY", "host_memory")]
)
def test_slurm_knows_why_a_worker_was_stopped_or_killed(placed: SubmittedJob, state: str, reason: FailureClass) -> None:
    for code in (INTERRUPTED, -9):
        assert end_of(placed, told(code), look("RUNNING")) is None
        assert end_of(placed, told(code), look(state)) == JobState(True, code, f"Slurm ended job 7_1: {state}", reason)
    assert end_of(placed, told(INTERRUPTED, "timeout"), look("FAILED")) == JobState(True, INTERRUPTED, "", "timeout")


def test_an_answer_to_an_older_question_says_nothing(placed: SubmittedJob) -> None:
    assert end_of(placed, None, look("CANCELLED", asked=99.0)) is None


def test_a_job_that_slurm_has_forgotten(placed: SubmittedJob) -> None:
    assert end_of(placed, None, QueueSnapshot(100.0 + SHOWN_WITHIN_S / 2)) is None
    forgotten = QueueSnapshot(100.0 + SHOWN_WITHIN_S)
    assert end_of(placed, None, forgotten) == JobState(True, None, "Slurm no longer knows job 7_1")
    assert end_of(placed, told(INTERRUPTED), forgotten) == JobState(True, INTERRUPTED)


@pytest.mark.parametrize(
    ("said", "passing"),
    [
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit", True),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", False),
        ("sbatch: error: invalid partition specified: cpu", False),
        ("", True),  # a signal ended it, maybe our own Ctrl-C
    ],
)
def test_what_another_try_may_mend(said: str, passing: bool) -> None:
    assert SubmissionError(said).passing is passing


class Commands:
    """Slurm's commands, which note how they were called and say what a test tells them to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        monkeypatch.setenv("PATH", str(self.folder), prepend=":")
        for name in ("srun", "scancel", "squeue", "scontrol"):
            self.say(name, "true")

    def say(self, name: str, script: str) -> None:
        path = self.folder / f"{name}.new"
        path.write_text(f'#!/bin/sh\necho "$*" >>{self.folder}/{name}.calls\n{script}\n')
        path.chmod(0o755)
        path.rename(self.folder / name)  # a thread may be calling it

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(tmp_path, monkeypatch)


def job(folder: Path, number: int, **own: int) -> Job:
    directory = folder / f"stage{number}"
    directory.mkdir(exist_ok=True)
    shape = {"cpus": 1, "gpus": 0} | own
    return Job(name=f"name{number}", command=("true",), directory=directory, **shape, env={"PYTHONPATH": "/sources"})


def test_one_array_for_each_shape_with_an_explicit_time(tmp_path: Path, commands: Commands) -> None:
    commands.say("sbatch", f'cat "$1" >>{tmp_path}/scripts; echo "Submitted batch job $(wc -l <{tmp_path}/scripts)"')
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    for number in range(5):
        engine.submit(job(tmp_path, number, cpus=1 if number < 3 else 4, gpus=0 if number < 3 else 2))
    assert not any(state.ended for state in engine.poll().values())
    assert len(commands.calls("sbatch")) == 2
    script = (tmp_path / "scripts").read_text()
    for line in ("--array=0-2%3", "--array=0-1%2", "--gres=gpu:a6000:2", "--time=30", "--signal=USR2@60", "--requeue"):
        assert f"#SBATCH {line}\n" in script
    assert "wckey" not in script
    told = [json.loads(path.read_text()) for path in (tmp_path / "home").glob("slurm/*/placed-*.json")]
    assert sorted(len(ids) for ids in told) == [2, 3]


def test_memory_is_asked_for_as_the_scale_says_on_each_node_and_never_by_what_others_held(
    tmp_path: Path, commands: Commands
) -> None:
    commands.say("sbatch", f'cat "$1" >>{tmp_path}/scripts; echo "Submitted batch job $(wc -l <{tmp_path}/scripts)"')
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1, cpus=2, nodes=2, memory_bytes=3 * 2**30, peak_bytes=2**40))
    engine.submit(job(tmp_path, 2, cpus=2, nodes=2, peak_bytes=2**40))
    engine.poll()
    script = (tmp_path / "scripts").read_text()
    assert [line for line in script.splitlines() if "--mem=" in line] == ["#SBATCH --mem=1536M", "#SBATCH --mem=960M"]


def test_a_jobs_script_ends_with_its_first_set_up_line_that_fails_and_only_there(
    tmp_path: Path, commands: Commands
) -> None:
    """And begins with a command, so that sbatch reads no option further down."""
    commands.say("sbatch", f'cp "$1" {tmp_path}/script; echo Submitted batch job 9')
    commands.say("srun", 'echo "srun: $SET"; exit 75')
    lines = ("export SET=up", "false || true", "[ -e $NEEDED ]", "#SBATCH --time=9")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE).model_copy(update={"setup": lines}))
    engine.submit(job(tmp_path, 1))
    engine.poll()
    script = (tmp_path / "script").read_text().splitlines()
    first = next(number for number, line in enumerate(script) if line and not line.startswith("#"))
    assert (script[first], first < script.index("#SBATCH --time=9")) == ("set -e", True)
    for needed, code, printed in (("/", 75, "srun: up\n"), ("/nowhere", 1, "")):
        ran = subprocess.run(
            ["bash", tmp_path / "script"], env=os.environ | {"NEEDED": needed}, capture_output=True, text=True
        )
        told = "" if printed else "set-up line failed: [ -e $NEEDED ]\n"
        assert (ran.returncode, ran.stdout, ran.stderr) == (code, printed, told)


def test_while_the_controller_is_away_jobs_wait(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("experiments.engines.slurm.engine.RETRY_S", 0.2)
    commands.say("sbatch", "echo 'sbatch: error: Unable to contact slurm controller' >&2; exit 1")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    wait_until(lambda: engine.poll() and len(commands.calls("sbatch")) == 2)
    assert engine.poll() == {"name1": JobState(False)}
    assert [m for m in caplog.messages if "takes no jobs now (sbatch: error: Unable to contact" in m] != []
    commands.say("sbatch", "echo Submitted batch job 9")
    wait_until(lambda: engine.poll() and any((tmp_path / "home").glob("slurm/*/placed-*.json")))


def test_what_is_refused_ends_in_sbatchs_words(tmp_path: Path, commands: Commands) -> None:
    commands.say("sbatch", "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    asked = "requested: 1 node with 1 CPU, 960 MB, 30 minutes, partition gpu; profile one_machine"
    told = f"sbatch: error: invalid partition specified: gpu ({asked})"
    assert engine.poll() == {"name1": JobState(True, BAD_INPUT, told)}
    engine.submit(job(tmp_path, 2, cpus=4, gpus=2))
    assert "4 CPUs, 3840 MB, gpu:a6000:2, 30 minutes" in engine.poll()["name2"].message


def test_ids_that_are_given_again_are_not_taken_for_ended(tmp_path: Path, commands: Commands) -> None:
    """As by a controller that has lost its memory."""
    commands.say("sbatch", "echo Submitted batch job 9")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    engine.poll()
    (folder,) = (tmp_path / "home" / "slurm").iterdir()
    (folder / "ended" / "9-name1.json").write_text('{"exit_code": 0}')
    assert engine.poll()["name1"] == JobState(True, DONE)
    engine.submit(job(tmp_path, 2))
    assert not engine.poll()["name2"].ended


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("job requeued in held state", True),
        ("JobHeldAdmin", True),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", True),
        ("PartitionDown", True),
        ("Resources", False),
        ("Priority", False),
        ("None", False),
    ],
)
def test_why_a_job_waits_is_told_if_somebody_may_have_to_act(
    tmp_path: Path, commands: Commands, caplog: pytest.LogCaptureFixture, reason: str, told: bool
) -> None:
    commands.say("sbatch", "echo Submitted batch job 9")
    commands.say("squeue", f"echo '9|PENDING|{reason}'")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    wait_until(lambda: engine.poll() and engine._seen > 0)
    assert (f"Slurm holds job 9 back: {reason} (requested: " in caplog.text) is told


def test_a_waiting_job_that_is_cancelled_leaves_the_queue_with_all_others_in_one_call(
    tmp_path: Path, commands: Commands
) -> None:
    commands.say("sbatch", "echo Submitted batch job 9")
    commands.say("squeue", "echo '9_0|PENDING|Resources'; echo '9_1|PENDING|Resources'")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    for number in (1, 2):
        engine.submit(job(tmp_path, number))
    wait_until(lambda: engine.poll() and commands.calls("squeue"))
    for number in (1, 2):
        engine.cancel(f"name{number}")
    wait_until(lambda: engine.poll() and commands.calls("scancel"))
    assert commands.calls("scancel") == ["9_0 9_1"]  # with --state=PENDING Slurm cancels whole arrays


def test_a_job_of_an_earlier_driver_is_taken_over_once_slurm_says_that_it_is_there(
    tmp_path: Path, commands: Commands
) -> None:
    commands.say("sbatch", "echo Submitted batch job 9")
    first = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    first.submit(job(tmp_path, 1))
    first.poll()
    commands.say("squeue", "sleep 0.3; echo '9|PENDING|Resources'")
    second = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    for number in (1, 2):
        second.submit(job(tmp_path, number))
    second.poll()
    assert len(commands.calls("sbatch")) == 1, "it waits for Slurm's first answer"
    wait_until(lambda: second.poll() and len(commands.calls("sbatch")) == 2)
    told = [json.loads(path.read_text()) for path in (tmp_path / "home").glob("slurm/*/placed-*.json")]
    assert sorted(map(list, told)) == [["name1"], ["name2"]]


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_what_a_terminal_sends_to_all_does_not_reach_sbatch(tmp_path: Path, commands: Commands, signal: str) -> None:
    commands.say("sbatch", f"kill -{signal} $$; echo Submitted batch job 9")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    engine.poll()
    (told,) = (tmp_path / "home").glob("slurm/*/placed-*.json")
    assert json.loads(told.read_text()) == {"name1": "9"}


def test_a_job_of_an_earlier_driver_is_cancelled_unsubmitted(tmp_path: Path, commands: Commands) -> None:
    commands.say("sbatch", "echo Submitted batch job 9")
    first = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    first.submit(job(tmp_path, 1))
    first.poll()
    SlurmEngine(tmp_path / "home", load_cluster(PROFILE)).cancel("name1")
    (mark,) = (tmp_path / "home").glob("slurm/*/cancel/*")
    assert mark.name == "9-name1.json"


def test_a_folder_that_gc_has_deleted_under_a_driver_that_slept_ends_nothing(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.1)
    monkeypatch.setattr("experiments.engines.slurm.ends.SHOWN_WITHIN_S", 0.2)
    commands.say("sbatch", "echo Submitted batch job 9")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    engine.poll()
    (folder,) = (tmp_path / "home" / "slurm").iterdir()
    shutil.rmtree(folder)
    wait_until(lambda: engine.poll()["name1"] == JobState(True, None, "Slurm no longer knows job 9"))
    engine.cancel("name1")
    engine.submit(job(tmp_path, 2))
    engine.poll()
    assert len(list((tmp_path / "home").glob("slurm/*/placed-*.json"))) == 1


NO_PYTHON = """
Fatal Python error: no codec
ModuleNotFoundError: No module named 'encodings'

Current thread 0x00007f12ab (most recent call first):
  <no Python frame>
srun: error: node1: task 0: Exited with exit code 1
srun: Terminating StepId=41.0
slurmstepd: error: *** STEP 41.0 ON node1 CANCELLED ***
"""


@pytest.fixture
def failing(tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> SlurmEngine:
    """An engine of whose jobs Slurm says that they failed."""
    monkeypatch.setattr("experiments.engines.slurm.queue.QUERY_EVERY_S", 0.1)
    commands.say("sbatch", "echo Submitted batch job 9")
    commands.say("squeue", "echo '9|FAILED|NonZeroExitCode'")
    return SlurmEngine(tmp_path / "home", load_cluster(PROFILE))


def test_a_job_that_failed_before_its_worker_began_tells_what_it_printed(tmp_path: Path, failing: SlurmEngine) -> None:
    """Its set-up lines are wrong, or Python is not there: another try would end the same, and so would all others."""
    for number, printed in enumerate(("", NO_PYTHON)):
        failing.submit(job(tmp_path, number))
        failing.poll()
        (folder,) = (tmp_path / "home" / "slurm").iterdir()
        (folder / "slurm" / "9_0_log.out").write_text(printed)
        wait_until(lambda number=number: failing.poll()[f"name{number}"].ended)
    first, second = failing.poll().values()
    began = "its job failed before the stage began: "
    right = "expected set-up lines in the profile that succeed, and true on every node"
    log = folder / "slurm" / "9_0_log.out"
    assert (first.reason, first.message) == ("user_error", f"{began}it printed nothing ({log}); {right}")
    said = "Fatal Python error: no codec; ModuleNotFoundError: No module named 'encodings'"
    assert second.message == f"{began}{said} ({log}, exit code 1); {right}"


def test_a_job_that_left_no_log_tells_what_must_be_on_every_node(tmp_path: Path, failing: SlurmEngine) -> None:
    """The node cannot open the log that Slurm is to write: it does not see the home folder, as in its own /tmp."""
    failing.submit(job(tmp_path, 1))
    wait_until(lambda: failing.poll()["name1"].ended)
    (folder,) = (tmp_path / "home" / "slurm").iterdir()
    left = f"it left no log ({folder / 'slurm' / '9_0_log.out'}: No such file or directory)"
    right = f"expected {tmp_path / 'home'} and true on every node, at the same path"
    told = JobState(True, None, f"its job failed before the stage began: {left}; {right}", "user_error")
    assert failing.poll()["name1"] == told


def test_a_job_that_failed_with_its_supervisor_is_not_blamed(tmp_path: Path, failing: SlurmEngine) -> None:
    failing.submit(job(tmp_path, 1))
    claim(tmp_path / "stage1", HOST | {"slurm": {"job": "9", "restart": 0}})
    wait_until(lambda: failing.poll()["name1"] == JobState(True, None, "Slurm ended job 9: FAILED", "killed"))


def test_where_squeue_and_scontrol_never_answer_files_tell_the_end_and_nobody_waits(
    tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.engines.slurm.submissions.CONFIG_LIMIT_S", 0.3)
    monkeypatch.setattr("experiments.engines.slurm.commands.LIMIT_S", 0.3)
    commands.say("sbatch", "echo Submitted batch job 9")
    for name in ("squeue", "scontrol"):
        commands.say(name, "exec sleep 60")
    started = time.monotonic()
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(job(tmp_path, 1))
    assert not engine.poll()["name1"].ended
    (folder,) = (tmp_path / "home" / "slurm").iterdir()
    write_json(folder / "ended" / "9-name1.json", {"exit_code": 0, "reason": None})
    assert engine.poll()["name1"] == JobState(True, DONE)
    assert time.monotonic() - started < 10
    assert json.loads((folder / "slurm.json").read_text())["slurm"] == ""


def test_jobs_that_a_full_disk_keeps_from_being_noted_are_taken_back(tmp_path: Path, commands: Commands) -> None:
    """Nobody would know of them, and the next driver would submit their stages a second time."""
    with full_disk() as disk:
        commands.say("sbatch", f"cat /dev/zero >{disk.folder}/ballast 2>/dev/null; echo Submitted batch job 9")
        engine = SlurmEngine(disk.folder / "home", load_cluster(PROFILE))
        for number in (1, 2):
            engine.submit(job(tmp_path, number))
        with pytest.raises(StoreError, match=r"placed-000001.json: cannot be written \(No space left on device\)"):
            engine.poll()
    assert commands.calls("scancel") == ["9_0 9_1"]


def test_a_lost_machine_is_left_out_where_slurm_knows_it(tmp_path: Path, commands: Commands) -> None:
    commands.say("sbatch", f'cat "$1" >>{tmp_path}/scripts; echo Submitted batch job 9')
    commands.say("sinfo", "printf 'n1\\nn2\\n'")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(replace(job(tmp_path, 1), exclude=("n2.cluster.local", "elsewhere")))
    engine.poll()
    assert "#SBATCH --exclude=n2\n" in (tmp_path / "scripts").read_text()


def test_where_all_machines_were_lost_it_may_go_there_again(
    tmp_path: Path, commands: Commands, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = "echo 'sbatch: error: Requested node configuration is not available' >&2; exit 1"
    commands.say("sbatch", f'grep -q -- --exclude "$1" && {{ {refusal}; }}; echo Submitted batch job 9')
    commands.say("sinfo", "echo n1")
    engine = SlurmEngine(tmp_path / "home", load_cluster(PROFILE))
    engine.submit(replace(job(tmp_path, 1), exclude=("n1",)))
    wait_until(lambda: not engine.poll()["name1"].ended and any((tmp_path / "home").glob("slurm/*/placed-*.json")))
    assert len(commands.calls("sbatch")) == 2
    assert caplog.messages == [
        "stage name1 was lost on n1; no other machine has what it asks for: it may go there again"
    ]


@pytest.mark.parametrize("name", ["a\nb", "a%j", "a\\b"])
def test_a_home_that_cannot_stand_in_a_script_is_refused(tmp_path: Path, commands: Commands, name: str) -> None:
    commands.say("sbatch", "true")
    with pytest.raises(SmaugError, match="--home"):
        SlurmEngine(tmp_path / name, load_cluster(PROFILE))


def test_without_slurm_here_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SmaugError, match="there is no sbatch here"):
        SlurmEngine(tmp_path, load_cluster(PROFILE))
