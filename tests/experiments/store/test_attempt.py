"""Claims, and who is alive: by hand, and with processes that race."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from experiments.store.attempt import NOTHING_SPENT, HeldError, Lease, SupersededError, claim, read_attempts
from experiments.store.documents import RESULT, StoreError, read_document, write_json
from experiments.store.drivers import driver_at_work, living
from experiments.store.process import SILENT_S, ProcessIdentity, is_alive, start_ticks, this_process
from tests.documents import changed, read_json
from tests.experiments.finished import HOST
from tests.faults import full_disk, read_only_disk

ROOT = Path(__file__).parents[3]
OWNER = HOST
GONE = {"pid": 2**22 + 1}
"""No process has an id beyond the largest that Linux gives."""


def test_this_process_is_alive_however_long_it_is_silent() -> None:
    assert is_alive(this_process(), heartbeat=0.0)


def test_a_process_that_ended_is_dead_though_it_spoke_just_now() -> None:
    child = subprocess.Popen(["sleep", "60"])
    owner = changed(this_process(), {"pid": child.pid, "start_ticks": start_ticks(child.pid)})
    assert is_alive(owner, heartbeat=0.0)
    child.kill()
    while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert not is_alive(owner, time.time()), "a zombie is dead"
    child.wait()
    assert not is_alive(owner, time.time())


def test_another_process_with_the_same_id_is_not_the_owner() -> None:
    owner = this_process()
    assert not is_alive(changed(owner, {"start_ticks": owner.start_ticks - 1}), time.time())


def test_a_clock_that_was_set_makes_no_process_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's time of the boot, to which psutil adds, moves with the clock."""
    owner, before = this_process(), psutil.Process().create_time()
    lease = claim(tmp_path / "stage", OWNER)
    with driver_at_work(tmp_path):
        moved = psutil.boot_time() + 3600.0
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: moved)
        assert psutil.Process().create_time() == pytest.approx(before + 3600.0, abs=1.0)
        assert is_alive(owner, heartbeat=0.0)
        (attempt,) = read_attempts(lease.stage_directory)
        assert attempt.state == "running"
        assert [driver.owner.pid for driver in living(tmp_path)] == [os.getpid()]


@pytest.mark.parametrize("without_proc", [False, True], ids=["an earlier version", "no /proc"])
def test_an_owner_without_ticks_is_known_by_its_start_time(without_proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_proc:  # as on macOS
        monkeypatch.setattr("experiments.store.process.PROC", Path("/nowhere"))
    owner = ProcessIdentity.of({name: value for name, value in this_process().raw.items() if name != "start_ticks"})
    assert without_proc == (owner == this_process())
    assert is_alive(owner, heartbeat=0.0)
    assert not is_alive(changed(owner, {"process_started": owner.process_started - 3600}), time.time())
    assert not is_alive(changed(owner, GONE), time.time())


def test_ticks_are_read_behind_a_name_with_spaces_and_brackets(tmp_path: Path) -> None:
    program = tmp_path / "a) R (b"
    program.symlink_to("/bin/sleep")
    first, second = (subprocess.Popen([program, "60"]) for _ in range(2))
    ticks = [start_ticks(child.pid) for child in (first, second)]
    for child in (first, second):
        child.kill()
        child.wait()
    uptime = float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK")
    assert ticks[0] is not None and ticks[1] is not None
    assert uptime - 6000 < ticks[0] <= ticks[1] <= round(uptime)
    assert start_ticks(first.pid) is None


@pytest.mark.parametrize("elsewhere", [{"host": "node-7"}, {"boot": "another start of this machine"}])
def test_on_another_machine_the_last_sign_decides(elsewhere: dict[str, str]) -> None:
    owner = changed(this_process(), GONE | elsewhere)
    assert is_alive(owner, heartbeat=1000.0, now=1000.0 + SILENT_S)
    assert not is_alive(owner, heartbeat=1000.0, now=1001.0 + SILENT_S)


def test_a_claim_says_who_and_has_spent_nothing(tmp_path: Path) -> None:
    lease = claim(tmp_path, OWNER)
    (only,) = read_attempts(tmp_path)
    assert (only.number, only.state, lease.directory) == (1, "running", tmp_path / "attempts" / "0001")
    assert only.owner.raw.items() >= (this_process().raw | OWNER).items()
    assert only.last.raw.items() >= NOTHING_SPENT.items()


def test_a_living_attempt_keeps_its_stage(tmp_path: Path) -> None:
    claim(tmp_path, OWNER)
    with pytest.raises(HeldError, match=rf"0001: process {this_process().pid} on .* is working on this stage"):
        claim(tmp_path, OWNER)
    assert [a.number for a in read_attempts(tmp_path)] == [1]


def test_an_attempt_that_ended_gives_way_to_the_next(tmp_path: Path) -> None:
    claim(tmp_path, OWNER).end("interrupted", NOTHING_SPENT | {"step": 7}, "asked to")
    assert claim(tmp_path, OWNER).number == 2
    assert [(a.state, a.last.step) for a in read_attempts(tmp_path)] == [("interrupted", 7), ("running", 0)]


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
    assert only.progress.step == 3
    assert before <= only.progress.time <= time.time()


CONTENDER = """
import sys, time
from pathlib import Path
from experiments.store.attempt import HeldError, claim
from tests.experiments.finished import HOST
stages, start = sorted(Path(sys.argv[1]).iterdir()), float(sys.argv[2])
for number, stage in enumerate(stages):
    while time.time() < start + number / 20:
        pass
    try:
        print(claim(stage, HOST).number, flush=True)
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
    assert read_document(tmp_path / "result.json", RESULT) is None


@pytest.mark.parametrize("content", ["", '{"metrics": {"t2v', "[1, 2]", "\xff"])
def test_damaged_json_is_named_with_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match=r"result\.json: .*rename it to result"):
        read_document(path, RESULT)


def test_an_attempt_without_its_files_is_named(tmp_path: Path) -> None:
    lease = claim(tmp_path, OWNER)
    (lease.directory / "owner.json").unlink()
    with pytest.raises(StoreError, match=r"attempts/0001/owner\.json: is missing; .* rename .*0001 to 0001.damaged"):
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
