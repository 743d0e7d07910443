"""Example pictures: left by real workers after real trainings, never at the cost of a result; and made by hand."""

import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from experiments.config.scale import load_scale
from experiments.config.sweep import load_sweep
from experiments.maintenance.gc import find_garbage
from experiments.stages.code_version import code_digest
from experiments.stages.trial import expand
from experiments.store.documents import StageDocument, write_json
from experiments.store.examples import FOLDER, LIST, stored_gallery
from experiments.store.store import Store, stage_record
from experiments.store.trials import write_trial
from experiments.worker import examples as pictures
from experiments.worker import main as worker
from experiments.worker.examples import draw_pictures, leave_pictures
from experiments.worker.main import run_stage
from experiments.worker.outcome import DONE
from experiments.worker.signals import StopFlag
from smaug_core.config import DataConfig
from smaug_core.data.prepare.rendering import prepare
from smaug_core.errors import SmaugError
from smaug_core.settings import from_settings
from smaug_core.stage_protocol import KINDS
from tests.documents import read_json
from tests.experiments.smoke import ROOT, Smoke
from tests.quick_stage import quick_stage

FROM_FOUR = "4→1"


def trial_of(smoke: Smoke, variant: str = FROM_FOUR, **overrides):
    scale = load_scale(str(smoke.scale))
    sweep = load_sweep(ROOT / "sweeps" / "frame_selection.yaml", scale)
    return expand(sweep, scale, only=[variant], overrides={k.replace("__", "."): v for k, v in overrides.items()})[0]


def run(home: Path, stage) -> Path:
    directory = Store(home).prepare(stage)
    assert run_stage(directory, data_root=home / "data", device="cpu", stop=StopFlag()) == DONE
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home folder with a pre-training on single frames, one on clips that selects frames, and a fine-tuning."""
    smoke = Smoke(tmp_path_factory.mktemp("trained"))
    trial = trial_of(smoke)
    data = from_settings(DataConfig, trial.stages[0].settings["data"], "data")
    prepare(["moving_shapes/sentence"], data, smoke.home / "data")
    write_trial(smoke.home, trial)
    return smoke, trial, {stage.kind: run(smoke.home, stage) for stage in trial.stages[:3]}


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of it, to be damaged."""
    smoke, trial, folders = trained
    home = smoke.copy(tmp_path).home
    return home, trial, {kind: home / folder.relative_to(smoke.home) for kind, folder in folders.items()}


def listed(folder: Path) -> dict:
    return json.loads((folder / LIST).read_text())


def clips_of(home: Path) -> tuple[Path, list[dict]]:
    """The folder of the data, and the rows of its test split."""
    (path,) = (home / "data").glob("moving_shapes/sentence-*/test.jsonl")
    return path.parent, [json.loads(line) for line in path.read_text().splitlines()]


def again(home: Path, folder: Path) -> None:
    leave_pictures(StageDocument.of(read_json(folder / "stage.json")), folder, data_root=home / "data", device="cpu")


def test_a_pretraining_leaves_pictures_of_held_out_clips(trained):
    smoke, _, folders = trained
    made = listed(folders["pretrain"] / FOLDER)["examples"]
    assert [e["file"] for e in made] == [f"reconstruction-{n}.png" for n in range(1, 7)]
    assert {(e["split"], e["source"], e["mask_ratio"]) for e in made} == {("test", "moving_shapes/sentence", 0.5)}
    for each in made:
        content = (folders["pretrain"] / FOLDER / each["file"]).read_bytes()
        assert Image.open(io.BytesIO(content)).size == (each["width"], each["height"]) == (3 * 96 + 2 * 4, 96)
        assert len(content) <= 8_500
        assert each["caption"] in each["alt"] and "50 % of its patches hidden" in each["alt"]
    rows = clips_of(smoke.home)[1]
    assert [e["caption"] for e in made] == [rows[place]["caption"] for place in (0, 4, 8, 12, 16, 20)]


def test_a_training_that_selects_frames_shows_them_with_those_that_are_relevant(trained):
    smoke, _, folders = trained
    made = listed(folders["pretrain_video"] / FOLDER)["examples"]
    assert [e["kind"] for e in made] == ["reconstruction"] * 4 + ["selection"] * 4
    rows = clips_of(smoke.home)[1]
    for each, place in zip(made[4:], (0, 4, 8, 12), strict=True):
        row, looked_at = rows[place], (1, 5, 9, 13)  # the middles of four intervals of 16 frames
        assert each["caption"] == row["caption"]
        assert each["relevant"] == [n for n, frame in enumerate(looked_at, start=1) if frame in row["relevant"]]
        (selected,) = each["selected"]
        assert each["scores"][selected - 1] == max(each["scores"])  # rounded, so others may have as much
        assert f"Selected, with a thick border and a tick: frame {selected}." in each["alt"]
        assert "What the caption names can be seen in frames" in each["alt"]
    size = sum(path.stat().st_size for path in (folders["pretrain_video"] / FOLDER).glob("*.png"))
    assert size < 60_000


def test_pictures_are_no_part_of_the_result_and_other_stages_leave_none(trained):
    smoke, trial, folders = trained
    assert not (folders["finetune"] / FOLDER).exists()
    result = read_json(folders["pretrain"] / "result.json")
    assert set(result["files"]) == {"model/model.safetensors", "model/config.json"}
    facts = stage_record(smoke.home, "pretrain", trial.stages[0].fingerprint)
    assert len(facts.gallery.examples) == 6 and facts.gallery.failed == ""
    directory = run(smoke.folder / "quick", quick_stage())
    assert not (directory / FOLDER).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_how_pictures_are_made_is_no_part_of_what_makes_a_result(kind):
    assert not {"smaug_core/visualization/examples.py", "smaug_core/visualization/image_strip.py"} & set(
        code_digest(kind)
    )


def test_a_model_that_hides_nothing_and_selects_nothing_has_no_pictures(trained, tmp_path):
    smoke, _, _ = trained
    home = smoke.copy(tmp_path).home
    first = trial_of(smoke, "1", pretrain__mask_ratio=0.0).stages[0]
    assert not (run(home, first) / FOLDER).exists()


def test_the_same_weights_give_the_same_bytes_again(copied):
    home, _, folders = copied
    folder = folders["pretrain_video"]
    before = {path.name: path.read_bytes() for path in (folder / FOLDER).iterdir()}
    (folder / FOLDER / "of-a-killed-attempt.png").touch()
    again(home, folder)
    assert {path.name: path.read_bytes() for path in (folder / FOLDER).iterdir()} == before


def test_time_for_pictures_is_overhead(tmp_path, monkeypatch):
    def slowly(*_, **__):
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass

    monkeypatch.setattr(worker, "leave_pictures", slowly)
    store, stage = Store(tmp_path), quick_stage()
    run(tmp_path, stage)
    hours = store.record(stage).hours
    assert hours.overhead >= 0.3 / 3600 > 0.1 / 3600 > hours.useful


def test_a_result_is_published_and_tells_why_there_are_no_pictures(copied, capfd):
    """Training reads the training split; a test clip that is damaged shows only when pictures are made."""
    home, trial, folders = copied
    data, rows = clips_of(home)
    (data / rows[0]["media"]).write_bytes(b"")
    shutil.rmtree(folders["pretrain"])
    folder = run(home, trial.stages[0])
    assert listed(folder / FOLDER)["examples"] == []
    assert "test is damaged" in listed(folder / FOLDER)["failed"]
    assert f"example pictures: 0 pictures; SmaugError: {data}: test is damaged" in capfd.readouterr().err
    assert "test is damaged" in stage_record(home, "pretrain", trial.stages[0].fingerprint).gallery.summary


def test_a_clip_that_cannot_be_read_is_told_and_no_other_takes_its_place(copied):
    home, _, folders = copied
    data, rows = clips_of(home)
    lost = data / rows[8]["media"]  # the third example, and not in the sample of 16 that is looked at first
    lost.write_bytes(lost.read_bytes()[:300])
    again(home, folders["pretrain"])
    told = listed(folders["pretrain"] / FOLDER)
    assert [e["file"][-5] for e in told["examples"]] == ["1", "2", "4", "5", "6"]
    assert list(told["unreadable"]) == [str(lost)] and "failed" not in told
    assert stored_gallery(folders["pretrain"]).summary == "5 pictures; clips that could not be read: 1"


def test_damaged_weights_and_a_limit_of_time_are_told(copied, monkeypatch):
    home, _, folders = copied
    monkeypatch.setattr(pictures, "LIMIT_S", -1.0)
    again(home, folders["pretrain"])
    assert listed(folders["pretrain"] / FOLDER) == {
        "examples": [],
        "failed": "reconstruction-1 and what would follow are missing: -1 s were over",
    }
    weights = folders["pretrain"] / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    again(home, folders["pretrain"])
    assert listed(folders["pretrain"] / FOLDER)["failed"].startswith(f"CheckpointError: {weights}: cannot be read")


def test_where_pictures_cannot_be_kept_the_log_says_so(copied, capfd):
    home, _, folders = copied
    shutil.rmtree(folders["pretrain"] / FOLDER)
    (folders["pretrain"] / FOLDER).write_text("in the way")
    again(home, folders["pretrain"])
    assert "example pictures: cannot be written: " in capfd.readouterr().err
    assert (folders["pretrain"] / FOLDER).read_text() == "in the way"
    assert not list(folders["pretrain"].glob(".partial-*"))


def test_garbage_collection_keeps_pictures_and_takes_what_a_dead_writer_left(copied):
    home, _, folders = copied
    left = folders["pretrain"] / ".partial-examples-4242"
    left.mkdir()
    os.utime(left, (time.time() - 4000.0,) * 2)
    found = find_garbage(home)
    assert [(g.path, g.kind) for g in found.garbage] == [(left, "leftover")] and found.kept == []


def test_the_verbs_draw_the_same_pictures_larger(trained, tmp_path):
    smoke, _, folders = trained
    for verb, kind in (("reconstruct", "reconstruction"), ("select-frames", "selection")):
        out = tmp_path / verb
        ran = smoke(verb, "--from", str(folders["pretrain_video"]), "--out", str(out))
        assert ran.returncode == 0, ran.stderr
        made = listed(out)["examples"]
        assert [e["file"] for e in made] == [f"{kind}-{n}.png" for n in range(1, 7)]
        assert all((out / e["file"]).is_file() and f"{e['file']}: {e['alt']}" in ran.stdout for e in made)
        there = {e["file"]: e for e in listed(folders["pretrain_video"] / FOLDER)["examples"]}
        for each in made[:4]:
            assert {**each, "sha256": ""} == {**there[each["file"]], "sha256": ""}


def by_hand(kind: str, folder: Path, out: Path, home: Path):
    return draw_pictures(kind, folder, out, data_root=home / "data", device="cpu")


def test_a_fine_tuned_model_selects_frames_too(trained, tmp_path):
    smoke, _, folders = trained
    made = by_hand("selection", folders["finetune"], tmp_path / "out", smoke.home).examples
    assert [example.kind for example in made] == ["selection"] * 6


def test_what_pretrain_writes_is_as_good_as_a_stage_and_the_data_is_rendered(trained, tmp_path):
    _, _, folders = trained
    alone = tmp_path / "alone"
    shutil.copytree(folders["pretrain"] / "model", alone / "model")
    write_json(alone / "stage.json", {"stage": read_json(folders["pretrain"] / "stage.json"), "from": None})
    made = by_hand("reconstruction", alone, tmp_path / "out", tmp_path / "new home").examples
    assert [example.raw for example in made] == listed(tmp_path / "out")["examples"]
    assert clips_of(tmp_path / "new home")[1] and len(made) == 6


def test_where_nothing_is_held_out_the_first_of_the_corpus_is_shown_and_said_to_be_trained_on(trained, tmp_path):
    smoke, _, folders = trained
    stage = read_json(folders["pretrain"] / "stage.json")
    stage["settings"]["data"]["train_stills"] = 3
    stage["settings"]["pretrain"]["corpus"] = ["moving_shapes/stills"]
    folder = tmp_path / "stills"
    shutil.copytree(folders["pretrain"] / "model", folder / "model")
    write_json(folder / "stage.json", stage)
    made = by_hand("reconstruction", folder, tmp_path / "out", tmp_path / "home").examples
    assert [example.file for example in made] == [f"reconstruction-{n}.png" for n in (1, 2, 3)]
    assert {(example.source, example.split) for example in made} == {("moving_shapes/stills", "train")}
    assert all(f"a training picture of moving_shapes/stills, “{example.caption}”" in example.alt for example in made)


@pytest.mark.parametrize(
    ("kind", "of", "told"),
    [
        ("selection", "pretrain", "the model has no frame selector: expected one trained with pretrain_video.selected"),
        ("reconstruction", "finetune", "is finetune.msrvtt, in which no patch is hidden; expected a pre-tr"),
        ("reconstruction", "nothing", "holds no stage.json; expected the folder of a finished training"),
        ("selection", "unfinished", "holds no model; expected the folder of a finished training"),
    ],
)
def test_a_model_that_does_nothing_of_the_kind_is_refused(trained, tmp_path, kind, of, told):
    smoke, _, folders = trained
    (tmp_path / "unfinished").mkdir()
    shutil.copy(folders["pretrain"] / "stage.json", tmp_path / "unfinished")
    folder = folders.get(of, tmp_path / of)
    with pytest.raises(SmaugError, match=f"^--from {folder}: {told}"):
        by_hand(kind, folder, tmp_path / "out", smoke.home)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_written_to(trained, tmp_path):
    smoke, _, folders = trained
    (tmp_path / "mine.txt").touch()
    for out in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(SmaugError, match=f"^--out {out}: is there already and not empty; choose another folder"):
            by_hand("reconstruction", folders["pretrain"], out, smoke.home)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_by_hand_an_unreadable_clip_is_told_and_fails_the_command(copied, tmp_path):
    home, _, folders = copied
    data, rows = clips_of(home)
    lost = data / rows[8]["media"]
    lost.write_bytes(b"nothing")
    smoke = Smoke(tmp_path)
    ran = smoke("reconstruct", "--from", str(folders["pretrain"]), "--out", str(tmp_path / "out"))
    assert ran.returncode == 1 and str(lost) in ran.stderr
    assert len(listed(tmp_path / "out")["examples"]) == 5
