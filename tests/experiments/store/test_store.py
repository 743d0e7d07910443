"""The store: states, results that count and results that do not, curves."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.stages.stage import Stage
from experiments.store.attempt import NOTHING_SPENT, claim
from experiments.store.documents import StoreError, write_json
from experiments.store.store import Store, read_curve
from tests.experiments.finished import HOST, made_result
from tests.faults import full_disk, read_only_disk
from tests.quick_stage import quick_stage

OWNER = HOST


def finish(store: Store, stage: Stage, **result: Any) -> Path:
    """Publish a result as a worker would, without working."""
    directory = store.prepare(stage)
    lease = claim(directory, OWNER)
    write_json(directory / "result.json", made_result(stage) | result)
    lease.end("done", NOTHING_SPENT, "published")
    return directory


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_stage_is_kept_under_its_kind_and_the_first_digits_of_its_fingerprint(store: Store) -> None:
    stage = quick_stage("finetune", task="msrvtt")
    directory = store.prepare(stage)
    assert directory == store.home / "store" / "finetune" / stage.fingerprint[:12]
    assert json.loads((directory / "stage.json").read_text()) == stage.document()


def test_an_unknown_stage_is_new_and_cost_nothing(store: Store) -> None:
    record = store.record(quick_stage())
    assert (record.state, record.attempts, record.result, record.unit) == ("new", [], None, None)
    assert record.hours.billed == 0
    assert not store.has_attempt(quick_stage(), 1)
    assert not store.root.exists(), "asking leaves no trace"


def test_resources_may_change_and_are_written_anew(store: Store) -> None:
    finish(store, quick_stage(cpus=1))
    directory = store.prepare(quick_stage(cpus=2))
    assert json.loads((directory / "stage.json").read_text())["resources"] == {"cpus": 2, "gpus": 0}
    assert store.record(quick_stage(cpus=2)).state == "done"


@pytest.mark.parametrize(
    ("ended", "checkpoint", "state"),
    [
        ("interrupted", False, "new"),
        ("interrupted", True, "resume"),
        ("cancelled", True, "resume"),
        ("failed", False, "failed"),
        ("failed", True, "failed"),
        ("diverged", True, "failed"),
    ],
)
def test_the_newest_attempt_decides_the_state(store: Store, ended: Any, checkpoint: bool, state: str) -> None:
    directory = store.prepare(quick_stage())
    for outcome in ("failed", ended):
        claim(directory, OWNER).end(outcome, NOTHING_SPENT, "as told")
    if checkpoint:
        (directory / "checkpoints" / "step-00000002").mkdir(parents=True)
    assert store.record(quick_stage()).state == state


def test_a_stage_under_way_is_running(store: Store) -> None:
    claim(store.prepare(quick_stage()), OWNER)
    assert store.record(quick_stage()).state == "running"
    assert store.has_attempt(quick_stage(), 1)
    assert not store.has_attempt(quick_stage(), 2)


def test_a_result_counts_whatever_became_of_its_attempt(store: Store) -> None:
    """A worker killed between publishing and its farewell has done its work."""
    directory = finish(store, quick_stage(), useful_s=36.0)
    (directory / "attempts" / "0001" / "end.json").unlink()
    record = store.record(quick_stage())
    assert (record.state, record.unit, record.hours.useful) == ("done", "CPU h", 0.01)


def test_done_gives_the_finished_stages_of_a_kind(store: Store) -> None:
    finish(store, quick_stage(seed=1))
    finish(store, quick_stage(seed=2))
    finish(store, quick_stage("finetune"))
    store.prepare(quick_stage(seed=3))
    found = list(store.done("pretrain"))
    assert sorted(record.document.seed for record in found) == [1, 2]
    assert {record.state for record in found} == {"done"}
    assert list(store.done("evaluate")) == []


def test_stages_that_share_their_first_digits_are_not_mixed_up(store: Store) -> None:
    stage = quick_stage()
    directory = store.prepare(stage)
    other = stage.fingerprint[:12] + "0" * 52
    write_json(directory / "stage.json", stage.document() | {"fingerprint": other, "version": 0})
    with pytest.raises(StoreError, match=rf"holds the stage {other}, not {stage.fingerprint}.*another --home"):
        store.prepare(stage)
    write_json(directory / "result.json", made_result(stage, fingerprint=other))
    with pytest.raises(StoreError, match=rf"holds the stage {other}"):
        store.result(stage)


def test_a_damaged_result_is_named_and_never_counts(store: Store) -> None:
    directory = finish(store, quick_stage())
    (directory / "result.json").write_text('{"fingerprint": "')
    for ask in (store.result, store.record):
        with pytest.raises(StoreError, match=rf"{quick_stage().fingerprint[:12]}/result\.json: cannot be read"):
            ask(quick_stage())


def test_a_half_written_result_is_no_result(store: Store) -> None:
    """What a kill in the middle of `write_json` leaves."""
    directory = store.prepare(quick_stage())
    (directory / ".result.json.1234abcd.partial").write_text('{"fingerprint": "')
    assert store.record(quick_stage()).state == "new"


def test_a_stage_set_aside_is_new_and_what_it_held_is_kept(store: Store) -> None:
    for number in (1, 2):
        directory = finish(store, quick_stage(), metrics={"train.loss": number})
        aside = store.archive(quick_stage())
        assert aside == directory.with_name(f"{directory.name}.aside-{number}")
        assert json.loads((aside / "result.json").read_text())["metrics"] == {"train.loss": number}
        assert store.record(quick_stage()).state == "new"


def test_a_running_stage_is_not_set_aside(store: Store) -> None:
    directory = store.prepare(quick_stage())
    claim(directory, OWNER)
    with pytest.raises(StoreError, match="is running; stop it"):
        store.archive(quick_stage())
    assert directory.exists()


def test_what_was_set_aside_is_not_listed_as_done(store: Store) -> None:
    """It was put away because it is not to be used: neither as a result nor as an estimate of hours."""
    finish(store, quick_stage())
    store.archive(quick_stage())
    assert list(store.done("pretrain")) == []


def test_a_store_that_cannot_be_written_is_told() -> None:
    with read_only_disk() as folder, pytest.raises(StoreError, match=r"Read-only file system.*--home"):
        Store(folder / "home").prepare(quick_stage())


def test_preparing_on_a_full_disk_is_told_and_works_once_there_is_room() -> None:
    with full_disk() as disk:
        store = Store(disk.folder)
        disk.fill()
        with pytest.raises(StoreError, match="No space left on device"):
            store.prepare(quick_stage())
        assert store.record(quick_stage()).state == "new"
        disk.free()
        assert (store.prepare(quick_stage()) / "stage.json").exists()


def test_a_home_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        Store(tmp_path / "home").prepare(quick_stage())


def report(directory: Path, *steps: int, loss: float, torn: bool = False) -> None:
    lease = claim(directory, OWNER)
    lines = [json.dumps({"time": 0.0, "step": step, "values": {"loss": loss}}) + "\n" for step in steps]
    (lease.directory / "metrics.jsonl").write_text("".join(lines) + ('{"time": 0.0, "st' if torn else ""))
    lease.end("interrupted", NOTHING_SPENT, "")


def test_a_curve_takes_the_newest_account_of_each_step_and_skips_a_torn_line(store: Store) -> None:
    directory = store.prepare(quick_stage())
    report(directory, 1, 2, 3, loss=1.0, torn=True)
    claim(directory, OWNER).end("cancelled", NOTHING_SPENT, "ended before its first report")
    report(directory, 3, 4, loss=2.0)
    told = [(point.step, point.values["loss"]) for point in read_curve(directory)]
    assert told == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_a_damaged_result_teaches_nothing_and_hides_no_other(store: Store) -> None:
    stages = [quick_stage(seed=seed) for seed in (1, 2, 3)]
    for stage in stages:
        finish(store, stage)
    (store.directory(stages[0]) / "result.json").write_text('{"finger')
    next((store.directory(stages[1]) / "attempts").glob("0*/owner.json")).write_text("")
    assert [record.document.seed for record in store.done("pretrain")] == [3]
    with pytest.raises(StoreError, match="cannot be read"):
        store.record(stages[0])
