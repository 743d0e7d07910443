"""A data set of one's own in the slots of a scale: planned, priced and checked like the paper's."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments.config.scale import FOLDER, Scale, load_scale
from experiments.config.sweep import load_sweep
from experiments.maintenance.doctor.home import check_real_data
from experiments.planning.inputs import missing_inputs, read_splits, scale_stages, small_media
from experiments.stages.stage import Stage
from experiments.stages.trial import expand
from experiments.stages.workload import stage_macs
from smaug_core.data.dataset_info import DatasetInfo, describe_split, manifest_of, write_info
from smaug_core.data.manifest import ManifestKind, ManifestRow, write_manifest
from smaug_core.data.media.video import write_clip
from smaug_core.errors import SmaugError

SWEEP = FOLDER.parent / "masking_ratio.yaml"


def prepared(root: Path, *, caption: str = "a bird sings") -> DatasetInfo:
    """Two captions of each of three clips for training, and three to test on, called `birds`."""
    folder = root / "birds"
    (folder / "media").mkdir(parents=True)
    for number in range(3):
        write_clip(folder / "media" / f"{number}.mp4", np.full((4, 16, 16, 3), 80 * number, dtype=np.uint8), 8)
    splits = {}
    for split, captions in (("train", 2), ("test", 1)):
        path = manifest_of(folder, split)
        rows = [
            ManifestRow(id=f"birds/{split}/{n}.mp4#{k}", sentences=(caption,), path=f"{n}.mp4", flip=True)
            for n in range(3)
            for k in range(captions)
        ]
        splits[split] = describe_split(path, write_manifest(path, rows, ManifestKind(is_image=False)))
    info = DatasetInfo(folder=folder, name="birds", is_image=False, splits=splits)
    write_info(info)
    return info


@pytest.fixture
def scale(tmp_path: Path) -> Scale:
    """Scale tiny, whose corpus 5M and slot msrvtt are filled by `birds`."""
    text = (FOLDER / "tiny.yaml").read_text()
    text = text.replace("5M: [moving_shapes/stills, moving_shapes/sentence]", "5M: [moving_shapes/stills, birds]")
    text = text.replace("msrvtt: {dataset: moving_shapes/sentence}", "msrvtt: {dataset: birds}")
    (tmp_path / "own.yaml").write_text(text.replace("scale: tiny", "scale: own"))
    return load_scale(str(tmp_path / "own.yaml"))


def stages(scale: Scale, root: Path | None) -> dict[str, Stage]:
    trial = expand(load_sweep(SWEEP, scale), scale, data_root=root)[0]
    return {stage.name: stage for stage in trial.stages}


def test_media_that_were_prepared_smaller_than_a_stages_frames_are_a_warning(tmp_path: Path, scale: Scale) -> None:
    info, root = prepared(tmp_path / "data"), tmp_path / "data"
    planned = stages(scale, root).values()
    assert small_media(planned, root) == []
    write_info(replace(info, preparation="jpeg 2 fps 48 q95"))
    assert small_media(planned, root) == []
    write_info(replace(info, preparation="jpeg 2 fps 40 q95"))
    (warning,) = small_media(planned, root)
    assert warning.startswith("birds: was prepared with a short side of 40 pixels; pretrain enlarges them to 48")


def test_stages_are_identified_by_what_was_prepared_and_not_by_where_it_lies(tmp_path: Path, scale: Scale) -> None:
    info = prepared(tmp_path / "a")
    prepared(tmp_path / "b")
    prepared(tmp_path / "c", caption="a bird sits")
    here, there, other = (stages(scale, tmp_path / name) for name in "abc")
    assert here["pretrain"].inputs["birds train"] == info.splits["train"].digest
    assert here["evaluate.msrvtt"].inputs["birds test"] == info.splits["test"].digest
    for name in ("pretrain", "finetune.msrvtt", "evaluate.msrvtt"):
        assert here[name].fingerprint == there[name].fingerprint != other[name].fingerprint


def test_its_size_prices_a_stage(tmp_path: Path, scale: Scale) -> None:
    prepared(tmp_path)
    found = stages(scale, tmp_path)
    tuned, tested = found["finetune.msrvtt"], found["evaluate.msrvtt"]
    once = {**tuned.settings, "finetune": {**tuned.settings["finetune"], "epochs": 1}}
    per_epoch = stage_macs("finetune", once, None, tmp_path)
    assert stage_macs("finetune", tuned.settings, None, tmp_path) == tuned.settings["finetune"]["epochs"] * per_epoch
    assert per_epoch % 6 == 0  # captions
    assert stage_macs("evaluate", tested.settings, tuned.settings, tmp_path) > 0
    with pytest.raises(SmaugError, match="'birds' is unknown"):
        stage_macs("finetune", once, None)


def test_a_check_decodes_a_sample_of_it(tmp_path: Path, scale: Scale) -> None:
    info = prepared(tmp_path / "data")
    cut = scale_stages(scale, tmp_path / "data")
    assert read_splits(cut)["birds"] == ["train", "test"] and not missing_inputs(cut, tmp_path / "data")
    (found,) = check_real_data(tmp_path, cut)
    assert (found.level, found.message) == ("ok", "9 captions; 9 sampled files decode")
    (info.media_root / "1.mp4").write_bytes(b"")
    (found,) = check_real_data(tmp_path, cut)
    assert found.level == "fault" and found.message.startswith("3 of 9 sampled files cannot be read, the first: ")


def test_without_its_folder_it_is_an_input_that_was_not_seen(tmp_path: Path, scale: Scale) -> None:
    cut = scale_stages(scale)
    assert {each.name: (each.place, each.fix) for each in missing_inputs(cut, tmp_path)} == {
        f"birds {split}": (str(tmp_path / "birds"), "`smaug data prepare birds`") for split in ("train", "test")
    }


def test_a_name_that_is_not_there_and_a_changed_manifest_stop_a_plan(tmp_path: Path, scale: Scale) -> None:
    with pytest.raises(SmaugError, match=r"source: 'birds' is unknown; expected one of \['anet', .*dataset\.yaml$"):
        stages(scale, tmp_path)
    info = prepared(tmp_path)
    os.utime(info.manifest_of("test"), ns=(0, 0))
    with pytest.raises(SmaugError, match=r"test\.arrow: expected .*; if it was only copied, `smaug data check birds`"):
        stages(scale, tmp_path)
    again = describe_split(info.manifest_of("test"))
    write_info(replace(info, splits={**info.splits, "test": again}))
    assert stages(scale, tmp_path)["evaluate.msrvtt"].inputs["birds test"] == info.splits["test"].digest
