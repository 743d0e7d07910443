"""A run whose Ray loses workers, its Tune or its head, or gets signals: it goes on, or ends and says why."""

import fcntl
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.engines.ray import engine as ray_tune
from experiments.engines.ray import start as ray_start
from experiments.engines.ray.engine import RayEngine
from experiments.engines.ray.start import LONGEST_BASE, OwnRay, base_folder
from experiments.scheduler.events import Event
from experiments.scheduler.scheduler import Scheduler
from experiments.store.drivers import living
from experiments.store.store import Store
from smaug_core.errors import SmaugError
from tests.conformance.drivers import Driver, Site, states, trail
from tests.conformance.test_engines import RAY
from tests.quick_driver import make_stages
from tests.quick_stage import quick_stage

HOLDS = [[("pretrain", {"steps": 4, "hold_at": 2})]]
STOP_S = 15.0
"""The longest that a driver may take to end."""
SLACK_S = 5.0
"""For a machine that is busy."""


@pytest.mark.slow
def test_a_worker_that_ray_kills_for_want_of_memory_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ray's monitor looks for the first time when the stage is at work, and finds the machine far too full.

    That ends Tune. The Ray that is started next takes the machine as it is.
    """
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.0001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "10000")
    monkeypatch.setattr(ray_tune, "RESTARTS_S", (0.5,))
    store, stage, told = Store(tmp_path), quick_stage(steps=4, hold_at=2), []

    def note(event: Event) -> None:
        told.append((event.kind, event.message))
        if event.kind == "retry":
            monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
            (store.directory(stage) / "go").touch()

    with RayEngine(tmp_path) as engine:
        summary = Scheduler([stage], store, engine, data_root=tmp_path, on_event=note).run()
    assert summary.done == [stage], told
    assert trail(store, stage) == [1, 2, 3, 4]
    (message,) = [message for kind, message in told if kind == "retry"]
    assert message.startswith("host out of memory: Ray's memory monitor killed its supervisor, ")
    first = store.record(stage).attempts[0]
    assert first.failed_as == "host_memory"
    assert "waiting" not in [kind for kind, _ in told]
    assert "restarted in 0 s (1 of 1)" in " ".join([message, *caplog.messages])
    assert "MEM(GB)" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_tune_that_ends_again_and_again_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tune, "RESTARTS_S", (0.1, 0.1))
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "often")  # Tune wants a number
    store, stages = Store(tmp_path), [quick_stage(seed=seed) for seed in range(3)]
    with RayEngine(tmp_path) as engine:
        summary = Scheduler(stages, store, engine, data_root=tmp_path, on_event=repr).run()
    told = "could not convert string to float: 'often'"
    assert summary.paused == f"Ray Tune ended 3 times with no stage finished in between; lastly: ValueError: {told}"
    assert (summary.complete, summary.failed, summary.done) == (False, [], [])


def test_sigterm_to_the_process_group_is_a_stop_like_any_other(store: Store, drive: Any, tmp_path: Path) -> None:
    """Ray gets none of it. A folder for temporary files whose path is too long for Ray's sockets is no hindrance."""
    long = tmp_path / ("temporary-" * 6)
    long.mkdir()
    driver = drive(Site(name="ray", environment={"TMPDIR": str(long)}, cpus=RAY.cpus), HOLDS)
    (stage,) = make_stages(HOLDS)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    folder = folder_of_ray(driver)
    os.killpg(driver.process.pid, signal.SIGTERM)
    ended = driver.finish(STOP_S + SLACK_S)
    assert ended.items() >= {"done": [], "failed": [], "interrupted": True, "paused": ""}.items()
    assert states(store, stage) == ["interrupted"]
    assert living(store.home) == [] and list((store.home / "drivers").iterdir()) == []
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("head", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_head_that_is_lost_ends_the_driver_in_our_words(store: Store, drive: Any, head: signal.Signals) -> None:
    """One that is killed is noticed; one that answers no more keeps nobody from stopping the run."""
    driver = drive(RAY, HOLDS)
    (stage,) = make_stages(HOLDS)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    (gcs,) = [each for each in processes_of_ray(driver) if each.name() == "gcs_server"]
    gcs.send_signal(head)
    if head == signal.SIGSTOP:
        driver.ctrl_c()
    ended = driver.finish(STOP_S + SLACK_S)
    assert (ended["done"], ended["failed"], ended["interrupted"]) == ([], [], True)
    assert (ended["paused"] == "") == (head == signal.SIGSTOP), ended
    assert list((store.home / "drivers").iterdir()) == []
    deadline = time.monotonic() + STOP_S
    while gcs.is_running() or store.record(stage).state != "resume":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_raylet_that_is_killed_leaves_its_log_in_a_file_and_none_on_the_terminal(store: Store, drive: Any) -> None:
    driver = drive(RAY, HOLDS)
    (stage,) = make_stages(HOLDS)
    driver.wait_until(lambda: trail(store, stage) == [1, 2])
    (raylet,) = [each for each in processes_of_ray(driver) if each.name() == "raylet"]
    raylet.kill()
    printed, complaints = driver.process.communicate(timeout=STOP_S + SLACK_S)
    assert json.loads(printed.splitlines()[-1])["paused"] == "Ray's own processes on this machine have ended"
    assert "raylet" not in (printed + complaints).lower(), printed
    (ended,) = store.home.glob("ray/*/ended.txt")
    assert "Ray's own processes on this machine have ended\n" in ended.read_text()


def processes_of_ray(driver: Driver) -> list[psutil.Process]:
    return [each for each in psutil.Process(driver.process.pid).children(recursive=True) if each.is_running()]


def folder_of_ray(driver: Driver) -> Path:
    """The folder that the driver's own Ray is in: closed to others, and elsewhere than the driver's group."""
    raylet = next(each for each in processes_of_ray(driver) if each.name() == "raylet")
    (session,) = [word for word in raylet.cmdline() if word.startswith("--session-dir=") or "--session_dir=" in word]
    folder = Path(session.partition("=")[2]).parents[1]
    assert os.getpgid(raylet.pid) != os.getpgid(driver.process.pid)
    assert folder.stat().st_mode & 0o777 == 0o700
    return folder


def test_the_folder_of_ray_is_short_enough_for_its_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp") / ("x" * (LONGEST_BASE - 5))
    for folder, expected in ((short, short), (Path(f"{short}x"), Path("/tmp"))):
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        folder.mkdir()
        try:
            assert base_folder() == expected
        finally:
            folder.rmdir()
    monkeypatch.setattr("tempfile.tempdir", "/" + "x" * 60)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SmaugError, match="TMPDIR /x+: has 61 bytes, too many for Ray's sockets"):
        base_folder()


def test_what_a_killed_driver_left_goes_with_the_next_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_start, "base_folder", lambda: tmp_path)
    folders = {name: tmp_path / f"smaug-ray-{name}" for name in ("killed00", "living00", "justmade", "stranger")}
    for name, folder in folders.items():
        folder.mkdir()
        if name != "stranger":
            (folder / "lock").touch()
        if name != "justmade":
            os.utime(folder, (0, 0))
    with (folders["living00"] / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        ray_start.remove_leftovers()
    assert [name for name, folder in folders.items() if not folder.exists()] == ["killed00"]


def test_a_ray_that_does_not_start_is_told_in_a_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.engines.base import Node

    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    monkeypatch.setattr("experiments.engines.ray.start.START_S", 0.2)  # as on a machine with too much to do
    before = set(base_folder().glob("smaug-ray-*"))
    ray = OwnRay(Node(cpus=1))
    with pytest.raises(SmaugError, match=r"^ray: did not start on this machine \(not within 0 s\); run the same"):
        ray.address()
    ray.end()
    ray.end()
    assert not set(base_folder().glob("smaug-ray-*")) - before  # those of earlier tests may go meanwhile
