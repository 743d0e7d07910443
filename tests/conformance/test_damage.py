"""What a disk does to a store and to checkpoints, met by the same command given again: results are as undisturbed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.engines.inline import InlineEngine
from experiments.scheduler.events import Event, Summary
from experiments.scheduler.scheduler import Scheduler
from experiments.stages.stage import Stage
from experiments.store.store import Store
from smaug_core.stage_protocol import Interrupted
from smaug_core.training import train as training
from tests.conformance.test_engines import assert_every_attempt_is_billed_once, trail
from tests.conformance.test_kills import content
from tests.faults import full_disk
from tests.process_engine import ProcessEngine
from tests.quick_stage import quick_stage
from tests.small import SampleList, make_items
from tests.training.test_train import Recorder, identical, run, weights


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def give_command(store: Store, stage: Stage, on_event: Callable[[Event], Any] = repr) -> Summary:
    engine = ProcessEngine()
    try:
        return Scheduler([stage], store, engine, data_root=store.home / "data", on_event=on_event).run()
    finally:
        engine.close()


def undisturbed(folder: Path, stage: Stage) -> Store:
    store = Store(folder / "undisturbed")
    calm = Scheduler([stage], store, InlineEngine(), data_root=folder / "data", on_event=repr)
    assert calm.run().done == [stage]
    return store


def test_a_half_written_stage_folder_is_no_result_and_is_finished(store: Store, tmp_path: Path) -> None:
    """Two kills without progress leave a run without a result; then every file that was under way is half there."""
    stage = quick_stage(steps=5, checkpoint_every=2, kill_at=[4, 3])
    ((_, why),) = give_command(store, stage).failed
    assert why.startswith("stopped 2 times, no further than step 2")
    folder = store.directory(stage)
    for name in (
        ".result.json.0123abcd.partial",
        "weights.json",
        "checkpoints/.partial-99/state.json",
        "attempts/.claim-0123456789ab/owner.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text('{"fingerprint": "')
    assert store.record(stage).state == "resume"
    assert list(store.done(stage.kind)) == []
    assert give_command(store, stage).done == [stage]
    assert trail(store, stage) == [1, 2, 3, 3, 4, 5]
    calm = quick_stage(steps=5, checkpoint_every=2)
    assert content(store, stage)[1:] == content(undisturbed(tmp_path, calm), calm)[1:]
    assert_every_attempt_is_billed_once(store, stage)


def test_a_full_disk_under_the_checkpoints_is_told_and_the_same_command_continues(store: Store, tmp_path: Path) -> None:
    stage = quick_stage(steps=5, checkpoint_every=2, hold_at=3)
    store.prepare(stage)
    with full_disk() as disk:
        (store.directory(stage) / "checkpoints").symlink_to(disk.folder)

        def fill(event: Event) -> None:
            if event.attempt and event.attempt.progress.step and trail(store, stage) == [1, 2, 3]:
                disk.fill()
                (store.directory(stage) / "go").touch()

        ((_, why),) = give_command(store, stage, on_event=fill).failed
        assert "No space left on device; free some space, then give the same command again" in why
        assert store.record(stage).state == "resume"
        assert sorted(path.name for path in disk.folder.glob("step-*")) == ["step-00000002"]
        disk.free()
        assert give_command(store, stage).done == [stage]
    assert trail(store, stage) == [1, 2, 3, 4, 3, 4, 5]
    assert_every_attempt_is_billed_once(store, stage)
    calm = quick_stage(steps=5, checkpoint_every=2)
    assert content(store, stage)[1:] == content(undisturbed(tmp_path, calm), calm)[1:]


# A real training.


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> SampleList:
    return make_items(tmp_path_factory.mktemp("media"), clips=12, stills=6)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def every_step_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0.0)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.usefixtures("every_step_is_saved")
def test_a_training_with_a_truncated_checkpoint_goes_on_from_the_one_before_bit_for_bit(
    tmp_path: Path, items: SampleList, file: str
) -> None:
    with pytest.raises(Interrupted):
        run(items, tmp_path / "truncated", Recorder(stop_after=3))
    damaged = tmp_path / "truncated" / "checkpoints" / "step-00000003" / file
    os.truncate(damaged, damaged.stat().st_size // 2)
    resumed = Recorder()
    run(items, tmp_path / "truncated", resumed)
    assert resumed.reports[0][0] == 3, "step 2 is the last that is whole"
    run(items, tmp_path / "undisturbed", Recorder())
    assert identical(weights(tmp_path / "truncated"), weights(tmp_path / "undisturbed"))


@pytest.mark.usefixtures("every_step_is_saved")
def test_a_training_without_room_for_its_checkpoint_keeps_the_one_before_and_goes_on_bit_for_bit(
    tmp_path: Path, items: SampleList
) -> None:
    with full_disk(kilobytes=2**15) as disk:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "checkpoints").symlink_to(disk.folder)
        with pytest.raises(Interrupted):
            run(items, tmp_path / "full", Recorder(stop_after=3))
        disk.fill()
        with pytest.raises(Exception, match="No space left on device"):
            run(items, tmp_path / "full", Recorder())
        assert max(path.name for path in disk.folder.glob("*")) == "step-00000003"
        disk.free()
        resumed = Recorder()
        run(items, tmp_path / "full", resumed)
        assert resumed.reports[0][0] == 4
    run(items, tmp_path / "undisturbed", Recorder())
    assert identical(weights(tmp_path / "full"), weights(tmp_path / "undisturbed"))
