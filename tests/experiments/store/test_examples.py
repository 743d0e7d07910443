"""Example pictures on their way from a stage's folder to reports: through MLflow and records, and what is damaged."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from experiments.store.documents import write_json
from experiments.store.examples import FOLDER, LIST, Example, Gallery, GalleryError, read_gallery, stored_gallery
from experiments.store.export import RecordError, read_records, write_records
from experiments.store.store import Store, stage_record
from experiments.store.trials import write_trial
from experiments.tracking import writer as tracking
from experiments.tracking.client import TrackingError
from experiments.tracking.reader import MlflowReader
from experiments.tracking.run_content import STAGES
from experiments.tracking.sync import sync
from experiments.worker.examples import write_gallery
from tests.documents import read_json
from tests.experiments.made_trials import execute, trial
from tests.mlflow_servers import server


def picture(value: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.full((8, 24, 3), value, dtype=np.uint8)).save(held, "PNG")
    return held.getvalue()


REBUILT = Example.of_picture(
    picture(10),
    file="reconstruction-1.png",
    kind="reconstruction",
    caption="a large red ring moves left",
    alt="Three times one frame.",
    source="moving_shapes/sentence",
    split="test",
    width=24,
    height=8,
    mask_ratio=0.5,
)
CHOSEN = Example.of_picture(
    # Base64 of these bytes reads like the path of a file.
    base64.b64decode("/home/jane/secret/weights/of/the/model+/and/more/of/it//"),
    file="selection-1.png",
    kind="selection",
    caption="it says “/home/jane/a b”",
    alt="Four frames.",
    source="moving_shapes/sentence",
    split="test",
    width=24,
    height=8,
    selected=[2],
    relevant=[],
    scores=[0.5, 1.25, -3.0, 0.0],
)
GALLERY = Gallery.of_examples([REBUILT, CHOSEN], {"/data/jane/x.mp4": "/data/jane/x.mp4: truncated"})


def pictured(home: Path, gallery: Gallery = GALLERY) -> Path:
    """Run a trial here whose pre-training left pictures; gives the folder of that stage."""
    made = trial()
    execute(home, made)
    write_trial(home, made)
    folder = Store(home).directory(made.stages[0])
    write_gallery(folder / FOLDER, gallery)
    return folder


def row_of(home: Path, kind: str = "pretrain"):
    return next(row for row in MlflowReader(home).stages() if row.kind == kind)


def artifacts(home: Path) -> Path:
    """The files of the pre-training's run."""
    row = row_of(home)
    return Path(row.artifacts.removeprefix("file://"))


def test_what_is_written_is_what_is_read(tmp_path):
    write_gallery(tmp_path / FOLDER, GALLERY)
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == [LIST, REBUILT.file, CHOSEN.file]
    assert stored_gallery(tmp_path) == GALLERY
    assert GALLERY.summary == "2 pictures; clips that could not be read: 1"
    assert stored_gallery(tmp_path / "nowhere") is None


def test_a_report_reads_from_mlflow_the_pictures_that_a_stage_left(new_home):
    home = new_home("home")
    pictured(home)
    sync(home)
    row = row_of(home)
    assert MlflowReader(home).examples(row) == [REBUILT, CHOSEN]
    assert row.examples == GALLERY.summary
    tuned = row_of(home, "finetune")
    assert tuned.examples == "" and MlflowReader(home).examples(tuned) == []


def test_pictures_told_from_records_are_those_told_from_the_store(new_home, tmp_path):
    here, there = new_home("here"), new_home("there")
    folder, records = pictured(here), tmp_path / "records"
    write_records(here, records)
    sync(there, records=records)
    told = MlflowReader(there).examples(row_of(there))
    assert [example.png for example in told] == [REBUILT.png, CHOSEN.png]
    assert told[0] == REBUILT
    (record,) = (records / "stages" / "pretrain").glob("*.json")
    listing = json.loads(record.read_text())["examples"]["listing"]
    assert listing["unreadable"] == {".../x.mp4": ".../x.mp4: truncated"}
    assert "jane/x.mp4" not in record.read_text()
    write_records(here, tmp_path / "again")
    assert (tmp_path / "again" / record.relative_to(records)).read_bytes() == record.read_bytes()
    assert folder.exists()


def test_a_record_without_pictures_is_as_it_was_before_there_were_any(new_home, tmp_path):
    home, records = new_home("home"), tmp_path / "records"
    shutil.rmtree(pictured(home) / FOLDER)
    write_records(home, records)
    for path in (records / "stages").glob("*/*.json"):
        body = json.loads(path.read_text())
        assert set(body) == {
            *("format", "document", "attempts", "result", "prediction", "curve", "ranks"),
        }
    sync(home, records=records)
    assert MlflowReader(home).examples(row_of(home)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: e["pictures"].pop(REBUILT.file), "its pictures cannot be read .KeyError: 'reconstruction-1.png'"),
        (lambda e: e["pictures"].update({REBUILT.file: "?"}), "its pictures cannot be read .Error"),
        (lambda e: e["pictures"].update({REBUILT.file: "AAAA"}), "reconstruction-1.png is damaged"),
        (
            lambda e: e["listing"]["examples"][0].update(file="../x.png"),
            r"lists no example pictures .examples.0..file: expected the plain name of a PNG file, e.g. selection-1.png",
        ),
        (lambda e: e.update(pictures=3), "its pictures cannot be read .AttributeError"),
    ],
)
def test_damaged_pictures_of_a_record_are_named_and_nothing_is_told(new_home, tmp_path, change, told):
    here, there, records = new_home("here"), new_home("there"), tmp_path / "records"
    pictured(here)
    write_records(here, records)
    (path,) = (records / "stages" / "pretrain").glob("*.json")
    body = json.loads(path.read_text())
    change(body["examples"])
    path.write_text(json.dumps(body))
    with pytest.raises(RecordError, match=rf"{path.name}: is no record of a stage .examples.json: {told}"):
        sync(there, records=records)
    assert MlflowClient(tracking_uri=f"sqlite:///{there / 'mlflow.db'}").get_experiment_by_name(STAGES) is None
    with pytest.raises(RecordError):
        read_records(records)


@pytest.mark.parametrize("name", ["../up.png", "a/b.png", "/etc/x.png", "..", ".png", "x.svg", "x.png\n", "X.png", ""])
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_opened(name):
    def never(name: str) -> bytes:
        raise AssertionError(name)

    text = json.dumps({"examples": [REBUILT.raw, CHOSEN.raw | {"file": name}]})
    with pytest.raises(GalleryError, match=r"here: lists .* .examples.1..file: expected the plain name of a PNG file"):
        read_gallery(text, never, "here")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "lists no example pictures"),
        ("{", "lists no example pictures"),
        ('{"examples": [{"file": "a.png"}]}', r"lists no example pictures .examples.0..kind: expected one of reconst"),
        ('{"examples": [], "failed": 1}', "lists no example pictures .failed: expected a string, got 1"),
        (json.dumps({"examples": [REBUILT.raw] * 2}), "reconstruction-1.png is listed twice"),
    ],
)
def test_a_list_that_is_none_is_told(text, told):
    with pytest.raises(GalleryError, match=f"here: {told}"):
        read_gallery(text, lambda _: REBUILT.png, "here")


def damage(folder: Path, how: str) -> None:
    if how == "picture lost":
        (folder / CHOSEN.file).unlink()
    elif how == "picture changed":
        (folder / CHOSEN.file).write_bytes(picture(11))
    elif how == "list lost":
        (folder / LIST).unlink()
    elif how == "list damaged":
        (folder / LIST).write_bytes(b"\xff\xfe{")


DAMAGES = {
    "picture lost": "selection-1.png",
    "picture changed": "selection-1.png is damaged",
    "list lost": "examples.json",
    "list damaged": "examples.json",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_damaged_in_the_ledger_is_an_error_that_names_it(new_home, how):
    home = new_home("home")
    pictured(home)
    sync(home)
    damage(artifacts(home) / FOLDER, how)
    with pytest.raises(TrackingError, match=f"MLflow at .*{DAMAGES[how]}"):
        MlflowReader(home).examples(row_of(home))


@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_damaged_in_the_store_is_told_and_all_else_is_recorded(new_home, how):
    home = new_home("home")
    damage(pictured(home) / FOLDER, how)
    assert sync(home) == (3, 1)
    row = row_of(home)
    assert DAMAGES[how] in row.examples and row.examples.startswith("0 pictures; ")
    assert MlflowReader(home).examples(row) == [] and row.hours["billed"] > 0


def test_pictures_that_have_changed_are_told_again_and_others_cost_no_call(new_home, monkeypatch):
    home = new_home("home")
    folder = pictured(home)
    sync(home)
    given = []
    original = tracking.write_files
    monkeypatch.setattr(tracking, "write_files", lambda *a: given.append(a[2]) or original(*a))
    sync(home)
    assert given == []
    shutil.rmtree(folder / FOLDER)
    other = Gallery.of_examples([CHOSEN])
    write_gallery(folder / FOLDER, other)
    sync(home)
    assert [list(files) for files in given] == [[f"{FOLDER}/{CHOSEN.file}"]]
    assert MlflowReader(home).examples(row_of(home)) == [CHOSEN]
    assert row_of(home).examples == "1 pictures"


@pytest.mark.slow
def test_pictures_go_through_a_server_that_keeps_files_itself(tmp_path, monkeypatch):
    with server(tmp_path / "server") as kept:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", kept.uri)
        pictured(tmp_path / "home")
        sync(tmp_path / "home")
        row = row_of(tmp_path / "home")
        assert row.artifacts.startswith("mlflow-artifacts:")
        assert MlflowReader(tmp_path / "home").examples(row) == [REBUILT, CHOSEN]


def test_a_stage_that_is_not_done_tells_no_pictures(tmp_path):
    """A worker that was killed between its pictures and its result makes them again."""
    folder = pictured(tmp_path)
    fingerprint = read_json(folder / "stage.json")["fingerprint"]
    assert stage_record(tmp_path, "pretrain", fingerprint).gallery == GALLERY
    (folder / "result.json").unlink()
    assert stage_record(tmp_path, "pretrain", fingerprint).gallery is None


def test_what_failed_is_told_in_mlflow_too(new_home):
    home = new_home("home")
    pictured(home, Gallery.of_examples(failed="SmaugError: the data is gone"))
    sync(home)
    assert row_of(home).examples == "0 pictures; SmaugError: the data is gone"
    held = json.loads((artifacts(home) / FOLDER / LIST).read_text())
    assert held == {"examples": [], "failed": "SmaugError: the data is gone"}
    write_json(artifacts(home) / FOLDER / LIST, held)
    assert MlflowReader(home).examples(row_of(home)) == []
