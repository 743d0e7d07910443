"""The worker: real processes, killed at every write, stopped, overtaken, out of space."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.stages.stage import Stage
from experiments.store.attempt import SupersededError, claim, read_attempts
from experiments.store.documents import StoreError, write_json
from experiments.store.process import start_ticks
from experiments.store.store import Store, read_curve
from experiments.worker import reporter as watch_module
from experiments.worker.device import DeviceClock
from experiments.worker.main import run_stage
from experiments.worker.outcome import BAD_INPUT, DIVERGED, DONE, FAILED, HELD, INTERRUPTED
from experiments.worker.reporter import StageWatch
from experiments.worker.signals import StopFlag
from smaug_core.stage_protocol import Outcome
from tests.documents import read_json
from tests.experiments.finished import HOST
from tests.faults import full_disk
from tests.quick_stage import QuickStage, quick_stage

ROOT = Path(__file__).parents[3]
OWNER = HOST
PATIENCE_S = 60.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def run(directory: Path, stop: StopFlag | None = None) -> int:
    """Run a prepared stage in this process."""
    return run_stage(directory, data_root=directory.parents[2] / "data", device="cpu", stop=stop or StopFlag())


def start(directory: Path, *before: str) -> subprocess.Popen[str]:
    """Run a prepared stage in a process of its own, as an engine does; `before` may replace `-m experiments.worker`."""
    command = [sys.executable, *(before or ("-m", "experiments.worker")), str(directory)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def trail(directory: Path) -> list[int]:
    """Every step that any attempt took."""
    path = directory / "trail.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def assert_result_is_whole(store: Store, stage: Stage) -> dict[str, Any]:
    result = store.result(stage)
    assert result is not None
    for name, digest in result.files.items():
        assert hashlib.sha256((store.directory(stage) / name).read_bytes()).hexdigest() == digest
    assert set(result.files) == {"weights.json"}
    return result


def last_end(directory: Path) -> dict[str, Any]:
    end = read_attempts(directory)[-1].end
    assert end is not None
    return end


def test_a_worker_publishes_what_its_stage_made_and_how(store: Store) -> None:
    parent, stage = quick_stage(), quick_stage("finetune", parents=(quick_stage(),), seed=5)
    for each in (parent, stage):
        assert run(store.prepare(each)) == DONE
    result = assert_result_is_whole(store, stage)
    assert json.loads((store.directory(stage) / "weights.json").read_text()) == [5, [str(store.directory(parent))]]
    assert result.metrics == {"train.loss": pytest.approx(1 / 3)}
    assert (
        result.raw.items()
        >= {"device": "cpu", "unit": "CPU h", "cpus": 1, "gpus": 0, "threads": 1, "attempt": 1}.items()
    )
    assert set(result.code) >= {"smaug_core/stages.py", "smaug_core/training/train.py"}
    assert set(result.versions) >= {"python", "torch", "timm", "transformers"}
    assert [(p.step, p.values) for p in read_curve(store.directory(stage))] == [
        (1, {"loss": 1.0}),
        (2, {"loss": 1 / 2}),
        (3, {"loss": 1 / 3}),
    ]
    hours = store.record(stage).hours
    assert 0 <= hours.useful <= hours.billed
    assert hours.lost == 0
    assert not hours.estimated


def test_a_finished_stage_is_not_run_again(store: Store) -> None:
    directory = store.prepare(quick_stage())
    assert [run(directory), run(directory)] == [DONE, DONE]
    assert trail(directory) == [1, 2, 3]
    assert len(read_attempts(directory)) == 1


@pytest.mark.parametrize(
    ("fault", "code", "ended", "message"),
    [
        ("fail_at", FAILED, "failed", "RuntimeError: told to fail at step 2"),
        ("refuse_at", BAD_INPUT, "failed", "clip 000007.mp4: told to refuse at step 2"),
        ("diverge_at", DIVERGED, "diverged", "step 2: the loss is not finite"),
    ],
)
def test_how_a_stage_failed_is_written_down(store: Store, fault: str, code: int, ended: str, message: str) -> None:
    stage = quick_stage(**{fault: 2})
    directory = store.prepare(stage)
    assert run(directory) == code
    assert last_end(directory).raw.items() >= {"class": ended, "message": message, "step": 1}.items()
    assert ("Traceback" in last_end(directory).traceback) == (fault == "fail_at")
    assert store.record(stage).state == "failed"


def test_what_a_worker_process_prints_is_in_its_log(store: Store) -> None:
    directory = store.prepare(quick_stage(fail_at=2))
    worker = start(directory)
    _, printed = worker.communicate(timeout=PATIENCE_S)
    assert (worker.returncode, printed) == (FAILED, "")
    log = (directory / "attempts" / "0001" / "log.txt").read_text()
    assert log.startswith("Traceback")
    assert log.endswith("failed: RuntimeError: told to fail at step 2\n")


def test_a_worker_without_a_stage_says_so(tmp_path: Path) -> None:
    worker = start(tmp_path / "a" / "b" / "c")
    _, printed = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == BAD_INPUT
    assert "no stage was prepared here (stage.json is missing)" in printed


def test_a_worker_whose_stage_is_held_says_by_whom(store: Store) -> None:
    directory = store.prepare(quick_stage())
    claim(directory, OWNER)
    worker = start(directory)
    _, printed = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == HELD
    assert f"process {os.getpid()} on" in printed


def test_a_stage_whose_parent_is_not_done_names_it_and_may_be_tried_again(store: Store) -> None:
    parent = quick_stage()
    stage = quick_stage("finetune", parents=(parent,))
    directory = store.prepare(stage)
    assert run(directory) == BAD_INPUT
    assert f"the stage it builds on, {parent.fingerprint[:12]}, is not done" in last_end(directory).message
    run(store.prepare(parent))
    assert store.record(stage).state == "new"
    assert run(directory) == DONE


OTHER: dict[str, Any] = {
    "kind": "pretrain",
    "task": None,
    "settings": {},
    "inputs": {},
    "parents": (),
    "seed": 0,
    "resources": {"cpus": 1, "gpus": 0},
}
"""A stage with another entry than quick_stage's."""


def forgetful(*_: Any, **__: Any) -> Outcome:
    return Outcome(metrics={}, useful_s=0.0, files=["weights.json"])


class Forgetful(QuickStage):
    def document(self) -> dict[str, Any]:
        return super().document() | {"entry": f"{__name__}:forgetful"}


def test_a_stage_that_did_not_write_what_it_says_is_not_done(store: Store) -> None:
    stage = Forgetful(**OTHER)
    directory = store.prepare(stage)
    assert run(directory) == BAD_INPUT
    assert "the stage says it wrote this file" in last_end(directory).message
    assert store.result(stage) is None


def test_a_worker_asked_to_stop_saves_and_the_next_one_continues(store: Store) -> None:
    stage = quick_stage(steps=4, hold_at=2)
    directory = store.prepare(stage)
    worker = start(directory)
    wait_until(lambda: store.has_attempt(stage, 1) and trail(directory) == [1, 2])
    worker.terminate()
    assert worker.wait(PATIENCE_S) == INTERRUPTED
    assert last_end(directory).raw.items() >= {"class": "interrupted", "step": 2, "total": 4}.items()
    assert store.record(stage).state == "resume"
    assert run(directory) == DONE
    assert trail(directory) == [1, 2, 3, 4]
    hours = store.record(stage).hours
    assert hours.lost == pytest.approx(0, abs=0.5 / 3600), "no step, at most what ran between save and end"
    assert not hours.estimated


def test_a_worker_asked_many_times_at_once_still_stops(store: Store) -> None:
    """A process whose parent's threads die one after the other gets a signal for each; handlers then nest."""
    directory = store.prepare(quick_stage(steps=4, hold_at=2))
    worker = start(directory)
    wait_until(lambda: trail(directory) == [1, 2])
    while worker.poll() is None:
        worker.terminate()
    assert worker.communicate(timeout=PATIENCE_S) == (None, "")
    assert worker.returncode == INTERRUPTED


KILLED_AT = """
import os, runpy, signal, sys
folder, instant, writes = sys.argv[2], int(sys.argv.pop(1)), 0

def count(event, arguments):
    global writes
    path = next((str(a) for a in arguments if isinstance(a, (str, os.PathLike)) and str(a).startswith(folder)), None)
    changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir") or (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if path and changes:
        writes += 1
        if writes == instant:
            os.kill(os.getpid(), 9)

sys.addaudithook(count)
runpy.run_module("experiments.worker", run_name="__main__")
"""
"""A worker that is killed right before its n-th change of a file in its stage's folder."""


@pytest.mark.slow
def test_killed_at_any_write_a_worker_leaves_a_whole_result_or_none(tmp_path: Path) -> None:
    stage = quick_stage(steps=4, checkpoint_every=2)
    instant, killed, seen = 0, True, set()
    while killed:
        instant += 1
        store = Store(tmp_path / str(instant))
        directory = store.prepare(stage)
        command = [sys.executable, "-c", KILLED_AT, str(instant), str(directory)]
        killed = subprocess.run(command, cwd=ROOT).returncode == -signal.SIGKILL
        before = store.record(stage)
        state = before.state
        seen.add(state)
        if state == "done":
            assert_result_is_whole(store, stage)
            assert before.hours.estimated == killed
        else:
            assert killed
        assert run(directory) == DONE
        assert_result_is_whole(store, stage)
        assert [point.step for point in read_curve(directory)] == [1, 2, 3, 4]
        after = store.record(stage)
        assert len(after.attempts) == len(before.attempts) + (state != "done")
        assert after.hours.billed == pytest.approx(
            max(sum(a.last.spent_s for a in after.attempts) / 3600, after.hours.useful)
        )
        if state == "resume":
            assert trail(directory).count(1) == 1, "steps before the checkpoint are not done again"
    assert seen == {"new", "resume", "done"}
    assert instant > 20


FINISHED_MEANWHILE = """
import runpy, subprocess, sys
folder, waiting = sys.argv[1], True

def finish_first(event, arguments):
    global waiting
    if event == "os.listdir" and str(arguments[0]) == folder + "/attempts" and waiting:
        waiting = False
        subprocess.run([sys.executable, "-m", "experiments.worker", folder], check=True)

sys.addaudithook(finish_first)
runpy.run_module("experiments.worker", run_name="__main__")
"""
"""A worker that loses the processor between looking for a result and looking for attempts."""


def test_a_stage_finished_between_look_and_claim_is_not_run_again(store: Store) -> None:
    stage = quick_stage()
    directory = store.prepare(stage)
    assert subprocess.run([sys.executable, "-c", FINISHED_MEANWHILE, str(directory)], cwd=ROOT).returncode == DONE
    assert trail(directory) == [1, 2, 3]
    assert assert_result_is_whole(store, stage).attempt == 1
    assert [a.state for a in read_attempts(directory)] == ["done", "cancelled"]


def seem_dead(directory: Path) -> None:
    """Let the newest attempt look like one on another machine that has long been silent."""
    attempt = read_attempts(directory)[-1].directory
    for name, change in (("owner.json", {"host": "node-7"}), ("progress.json", {"time": 0.0})):
        write_json(attempt / name, (read_json(attempt / name) or {}) | change)


def test_a_worker_that_was_overtaken_publishes_nothing(store: Store) -> None:
    stage = quick_stage(hold_at=2)
    directory = store.prepare(stage)
    worker = start(directory)
    wait_until(lambda: trail(directory) == [1, 2])
    seem_dead(directory)
    successor = claim(directory, OWNER)
    (directory / "go").touch()
    assert worker.wait(PATIENCE_S) == HELD
    assert store.record(stage).state == "running"
    first, second = read_attempts(directory)
    assert (first.state, second.state, second.number) == ("cancelled", "running", successor.number)
    assert first.end is not None
    assert "another worker took over this stage" in first.end.message


def test_the_heart_beats_while_a_stage_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "HEARTBEAT_S", 0.02)
    lease = claim(tmp_path, OWNER)
    signs = set()
    with StageWatch(lease, DeviceClock(0), StopFlag()):
        wait_until(lambda: signs.add(read_attempts(tmp_path)[0].progress.time) or len(signs) > 3)


def test_a_silent_stage_learns_from_its_heart_that_it_was_overtaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "HEARTBEAT_S", 0.02)
    lease = claim(tmp_path, OWNER)
    with StageWatch(lease, DeviceClock(0), StopFlag()) as watch:
        seem_dead(tmp_path)
        claim(tmp_path, OWNER)
        wait_until(lambda: not watch._heart.is_alive())
        for ask in (watch.stop_requested, lambda: watch.report(1, 3, {})):
            with pytest.raises(SupersededError):
                ask()


def test_the_account_tells_training_from_start_up(tmp_path: Path) -> None:
    """With a GPU held, device seconds are wall seconds, so the sum can be checked against the clock itself."""
    lease, clock = claim(tmp_path, OWNER), DeviceClock(2)
    with StageWatch(lease, clock, StopFlag()) as watch:
        time.sleep(0.05)
        before = watch.spent()
        time.sleep(0.05)
        watch.report(1, 2, {"loss": 3.0})
        watch.useful(watch.spent() - before)
        account = watch.account()
    assert before >= 2 * 0.05
    assert account["spent_s"] >= before + account["train_s"] >= before + 2 * 0.05
    assert account["spent_s"] == pytest.approx(2 * account["wall_s"], rel=0.01)
    assert account["useful_s"] <= account["train_s"] + 1e-6
    assert account["step"] == read_attempts(tmp_path)[0].progress.step == 1
    assert [p.step for p in read_curve(tmp_path)] == [1]


def test_cpu_time_counts_finished_and_running_children() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\ninput()"
    clock = DeviceClock(0)
    command = [sys.executable, "-c", burn]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    assert clock.spent_s() >= 0.25, "a running child counts"
    child.communicate("\n")
    assert clock.spent_s() >= 0.25, "and it counts after it was waited for"


PARENT = """
import os, subprocess, sys
worker = subprocess.Popen([sys.executable, "-m", "experiments.worker", sys.argv[1], "--parent", str(os.getpid())])
print(worker.pid, flush=True)
worker.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of a parent's death")
def test_a_worker_saves_and_ends_when_its_parent_is_killed(store: Store) -> None:
    stage = quick_stage(hold_at=2)
    directory = store.prepare(stage)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(directory)], cwd=ROOT)
    wait_until(lambda: trail(directory) == [1, 2])
    parent.kill()
    parent.wait()
    wait_until(lambda: store.record(stage).state == "resume")
    assert last_end(directory).outcome == "interrupted"


def test_a_full_disk_at_the_start_is_told_and_nothing_counts() -> None:
    with full_disk() as disk:
        store, stage = Store(disk.folder), quick_stage()
        directory = store.prepare(stage)
        disk.fill()
        worker = start(directory)
        _, printed = worker.communicate(timeout=PATIENCE_S)
        assert worker.returncode == BAD_INPUT
        assert "No space left on device); free some space" in printed
        assert store.record(stage).state == "new"
        disk.free()
        assert run(directory) == DONE


def test_a_disk_that_fills_up_is_told_and_the_same_command_continues() -> None:
    with full_disk() as disk:
        store, stage = Store(disk.folder), quick_stage(steps=5, checkpoint_every=2, hold_at=3)
        directory = store.prepare(stage)
        worker = start(directory)
        wait_until(lambda: trail(directory) == [1, 2, 3])
        (directory / "soon").touch()
        disk.fill()
        (directory / "soon").rename(directory / "go")  # a new file would need room
        assert worker.wait(PATIENCE_S) == BAD_INPUT
        assert store.record(stage).state == "resume", "not even a farewell could be written, and no result"
        disk.free()
        assert run(directory) == DONE
        assert_result_is_whole(store, stage)
        assert trail(directory).count(2) == 1, "it continued from the checkpoint"
        assert trail(directory)[-3:] == [3, 4, 5]


def rendering(*_: Any, data_root: Path, out: Path, **__: Any) -> Outcome:
    (data_root / "000007.mp4").write_bytes(bytes(2**16))
    (out / "weights.json").write_text("{}")
    return Outcome(metrics={}, useful_s=0.0, files=["weights.json"])


class Rendering(QuickStage):
    def document(self) -> dict[str, Any]:
        return super().document() | {"entry": f"{__name__}:rendering"}


def test_a_stage_that_finds_another_disk_full_did_not_fail_for_good(store: Store) -> None:
    stage = Rendering(**OTHER)
    directory = store.prepare(stage)
    with full_disk() as disk:
        disk.fill()
        tell = {"data_root": disk.folder, "device": "cpu", "stop": StopFlag()}
        assert run_stage(directory, **tell) == BAD_INPUT
        assert last_end(directory).outcome == "cancelled"
        assert "No space left on device; free some space" in last_end(directory).message
        assert store.record(stage).state == "new", "the same command tries again"
        disk.free()
        assert run_stage(directory, **tell) == DONE


def test_a_watch_without_space_names_the_file() -> None:
    with full_disk() as disk:
        lease = claim(disk.folder / "stage", OWNER)
        with StageWatch(lease, DeviceClock(0), StopFlag()) as watch:
            disk.fill()
            with pytest.raises(StoreError, match=r"(progress\.json|metrics\.jsonl): cannot be written \(No space left"):
                for step in range(2000):
                    watch.report(step, 2000, {"loss": 0.0})
                    watch.write()


STUCK = """
import os, sys, time
from experiments.worker import signals as stop
stop.ORPHAN_POLL_S = 0.05
stop.kill_orphan(os.getppid(), 0.1)
time.sleep(60)
"""


def test_what_does_not_end_once_its_parent_is_gone_is_killed() -> None:
    run = "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    command = [sys.executable, "-c", f"{run}; print(child.pid, flush=True); child.wait()", STUCK]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert start_ticks(child) is not None, "its parent lives"
    parent.kill()
    parent.communicate()
    wait_until(lambda: start_ticks(child) is None)
