"""Claims, who is alive, and hours: by hand, and with processes that race."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.attempt import (
    NOTHING_SPENT,
    SILENT_S,
    Attempt,
    HeldError,
    Lease,
    StoreError,
    SupersededError,
    claim,
    is_alive,
    read_attempts,
    read_json,
    stage_hours,
    this_process,
    write_json,
)
from tests.faults import full_disk, read_only_disk

ROOT = Path(__file__).parents[2]
OWNER = {"unit": "CPU h", "cpus": 1, "gpus": 0}
GONE = {"pid": 2**22 + 1}
"""No process has an id beyond the largest that Linux gives."""


def attempt(number: int, *, ended: str | None = None, **account: float) -> Attempt:
    """An attempt that died without a word unless it `ended`."""
    told = {"time": 0.0, **NOTHING_SPENT, **account}
    return Attempt(
        number=number,
        directory=Path(f"{number:04d}"),
        owner=this_process() | GONE | OWNER,
        progress=told,
        end=None if ended is None else told | {"class": ended, "message": ""},
    )


def test_hours_of_one_undisturbed_attempt() -> None:
    hours = stage_hours([attempt(1, ended="done", spent_s=3600, train_s=2700, useful_s=2700)], useful_s=2700)
    assert (hours.billed, hours.useful, hours.lost, hours.overhead) == (1.0, 0.75, 0.0, 0.25)
    assert not hours.estimated


def test_hours_of_a_killed_attempt_count_up_to_its_last_sign_and_what_it_had_saved_is_useful() -> None:
    """1800 s trained and 900 s of it saved, killed; then 2700 s more: 3600 s are in the weights, 900 s are lost."""
    killed = attempt(1, spent_s=2160, train_s=1800, useful_s=900)
    finished = attempt(2, ended="done", spent_s=3240, train_s=2700, useful_s=3600)
    hours = stage_hours([killed, finished], useful_s=3600)
    assert hours.billed == pytest.approx((2160 + 3240) / 3600)
    assert hours.useful == 1.0
    assert hours.lost == pytest.approx(900 / 3600)
    assert hours.overhead == pytest.approx((360 + 540) / 3600)
    assert hours.estimated


def test_hours_before_there_is_a_result_take_what_is_saved_as_useful() -> None:
    first = attempt(1, ended="interrupted", spent_s=1000, train_s=900, useful_s=900)
    second = attempt(2, spent_s=1000, train_s=900, useful_s=1440)
    hours = stage_hours([first, second], useful_s=None)
    assert hours.useful == pytest.approx(1440 / 3600)
    assert hours.lost == pytest.approx(360 / 3600)
    assert hours.overhead == pytest.approx(200 / 3600)


def test_hours_add_up() -> None:
    attempts = [attempt(1, spent_s=500, train_s=300, useful_s=100), attempt(2, spent_s=50, train_s=0)]
    hours = stage_hours(attempts, useful_s=None)
    assert hours.billed == pytest.approx(hours.useful + hours.lost + hours.overhead)


def test_saved_work_was_paid_for_even_where_the_last_sign_of_life_is_older() -> None:
    hours = stage_hours([attempt(1, spent_s=10, train_s=10)], useful_s=36)
    assert (hours.billed, hours.useful, hours.lost, hours.overhead) == (0.01, 0.01, 0.0, 0.0)


def test_no_attempts_cost_nothing() -> None:
    hours = stage_hours([], useful_s=None)
    assert (hours.billed, hours.useful, hours.lost, hours.overhead, hours.estimated) == (0, 0, 0, 0, False)


def test_this_process_is_alive_however_long_it_is_silent() -> None:
    assert is_alive(this_process(), last_sign=0.0)


def test_a_process_that_ended_is_dead_though_it_spoke_just_now() -> None:
    child = subprocess.Popen(["sleep", "60"])
    owner = this_process() | {"pid": child.pid, "process_started": time.time()}
    assert is_alive(owner, last_sign=0.0)
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert not is_alive(owner, time.time()), "a zombie is dead"
    child.wait()
    assert not is_alive(owner, time.time())


def test_another_process_with_the_same_id_is_not_the_owner() -> None:
    owner = this_process()
    assert not is_alive(owner | {"process_started": owner["process_started"] - 3600}, time.time())


@pytest.mark.parametrize("elsewhere", [{"host": "node-7"}, {"boot": "another start of this machine"}])
def test_on_another_machine_the_last_sign_decides(elsewhere: dict[str, str]) -> None:
    owner = this_process() | GONE | elsewhere
    assert is_alive(owner, last_sign=1000.0, now=1000.0 + SILENT_S)
    assert not is_alive(owner, last_sign=1000.0, now=1001.0 + SILENT_S)


def test_a_claim_says_who_and_has_spent_nothing(tmp_path: Path) -> None:
    lease = claim(tmp_path, OWNER)
    (only,) = read_attempts(tmp_path)
    assert (only.number, only.state, lease.directory) == (1, "running", tmp_path / "attempts" / "0001")
    assert only.owner.items() >= (this_process() | OWNER).items()
    assert only.last.items() >= NOTHING_SPENT.items()


def test_a_living_attempt_keeps_its_stage(tmp_path: Path) -> None:
    claim(tmp_path, OWNER)
    with pytest.raises(HeldError, match=rf"0001: process {this_process()['pid']} on .* is working on this stage"):
        claim(tmp_path, OWNER)
    assert [a.number for a in read_attempts(tmp_path)] == [1]


def test_an_attempt_that_ended_gives_way_to_the_next(tmp_path: Path) -> None:
    claim(tmp_path, OWNER).end("interrupted", NOTHING_SPENT | {"step": 7}, "asked to")
    assert claim(tmp_path, OWNER).number == 2
    assert [(a.state, a.last["step"]) for a in read_attempts(tmp_path)] == [("interrupted", 7), ("running", 0)]


def make_dead(lease: Lease) -> None:
    """Let the claim look as if its process had been killed."""
    owner = read_json(lease.directory / "owner.json")
    assert owner is not None
    write_json(lease.directory / "owner.json", owner | GONE)


def test_a_dead_attempt_gives_way_and_may_not_speak_again(tmp_path: Path) -> None:
    overtaken = claim(tmp_path, OWNER)
    overtaken.heartbeat(NOTHING_SPENT)
    make_dead(overtaken)
    assert claim(tmp_path, OWNER).number == 2
    with pytest.raises(SupersededError, match="0001: another worker took over"):
        overtaken.heartbeat(NOTHING_SPENT)


def test_heartbeats_tell_time_and_step(tmp_path: Path) -> None:
    lease = claim(tmp_path, OWNER)
    before = time.time()
    lease.heartbeat(NOTHING_SPENT | {"step": 3})
    (only,) = read_attempts(tmp_path)
    assert only.progress["step"] == 3
    assert before <= only.progress["time"] <= time.time()


CONTENDER = """
import sys, time
from pathlib import Path
from experiments.attempt import HeldError, claim
stages, start = sorted(Path(sys.argv[1]).iterdir()), float(sys.argv[2])
for number, stage in enumerate(stages):
    while time.time() < start + number / 20:
        pass
    try:
        print(claim(stage, {"unit": "CPU h"}).number, flush=True)
    except HeldError:
        print("held", flush=True)
sys.stdin.read()
"""
ROUNDS, RACERS = 10, 4


@pytest.mark.parametrize("dead_before", [0, 1])
def test_of_processes_that_claim_at_one_instant_exactly_one_wins(tmp_path: Path, dead_before: int) -> None:
    stages = [tmp_path / f"{number:02d}" for number in range(ROUNDS)]
    for stage in stages:
        stage.mkdir()
        if dead_before:
            make_dead(claim(stage, OWNER))
    command = [sys.executable, "-c", CONTENDER, str(tmp_path), str(time.time() + 1.5)]
    pipe = subprocess.PIPE
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(RACERS)]
    # Those that won stay alive until all have been heard.
    told = [[racer.stdout.readline().strip() for _ in stages] for racer in racers if racer.stdout]
    for racer in racers:
        racer.communicate()
    for stage, heard in zip(stages, zip(*told, strict=True), strict=True):
        assert sorted(heard) == [str(1 + dead_before)] + ["held"] * (RACERS - 1)
        assert sorted(p.name for p in (stage / "attempts").iterdir()) == ["0001", "0002"][: 1 + dead_before]


def test_json_is_replaced_whole_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for value in ({"a": 1}, {"b": [2]}):
        write_json(path, value, durable=True)
        assert read_json(path) == value
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_no_file_is_no_object(tmp_path: Path) -> None:
    assert read_json(tmp_path / "result.json") is None


@pytest.mark.parametrize("content", ["", '{"metrics": {"t2v', "[1, 2]", "\xff"])
def test_damaged_json_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match=r"result\.json: .*delete its directory"):
        read_json(path)


def test_an_attempt_without_its_files_is_named(tmp_path: Path) -> None:
    lease = claim(tmp_path, OWNER)
    (lease.directory / "owner.json").unlink()
    with pytest.raises(StoreError, match=r"attempts/0001: owner\.json or progress\.json is missing"):
        read_attempts(tmp_path)


def test_a_full_disk_is_told_and_the_old_content_stays() -> None:
    with full_disk() as disk:
        path = disk.folder / "progress.json"
        write_json(path, {"step": 1})
        disk.fill()
        with pytest.raises(StoreError, match=r"progress\.json: cannot be written \(No space left on device\); free"):
            write_json(path, {"step": 2, "padding": "x" * 20_000})
        assert json.loads(path.read_text()) == {"step": 1}
        assert not list(disk.folder.glob(".*partial"))


def test_a_claim_on_a_full_disk_is_told_and_holds_nothing() -> None:
    with full_disk() as disk:
        disk.fill()
        with pytest.raises(StoreError, match="No space left on device"):
            claim(disk.folder / "stage", OWNER)
        assert read_attempts(disk.folder / "stage") == []
        disk.free()
        assert claim(disk.folder / "stage", OWNER).number == 1
        assert [p.name for p in (disk.folder / "stage" / "attempts").iterdir()] == ["0001"]


def test_a_read_only_disk_is_told() -> None:
    with read_only_disk() as folder:
        with pytest.raises(StoreError, match=r"stage\.json: cannot be written \(Read-only file system\)"):
            write_json(folder / "stage.json", {})
        with pytest.raises(StoreError, match="Read-only file system"):
            claim(folder / "stage", OWNER)
