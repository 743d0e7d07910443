"""Portable records: they tell the ledger what the store would, and nothing of the machine; damage is named."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from experiments.store import export as portable
from experiments.store.documents import write_json
from experiments.store.export import RecordError, read_records, write_records
from experiments.store.store import Store, stage_record
from experiments.store.trials import trial_documents, write_trial
from experiments.tracking.reader import MlflowReader, read_trials
from experiments.tracking.run_content import STAGES
from experiments.tracking.sync import sync
from reports.report import make_tables, read_report
from tests.documents import read_json
from tests.experiments.made_trials import execute, ranks_of, trial

ROOT = Path(__file__).resolve().parents[3]
TOLD_OF_THE_MACHINE = ("smaug.host", "smaug.files", "smaug.told", "smaug.made", "smaug.stage_runs")


def finished(home: Path, *variants: str) -> list:
    made = [trial(variant, r1=20.0 + place) for place, variant in enumerate(variants)]
    for one in made:
        assert execute(home, one) == [0, 0, 0]
        write_trial(home, one)
    return made


def ledger_of(home: Path, experiment: str) -> dict[str, tuple]:
    """All that the runs of an experiment say, by name, without what only identifies a machine or a run."""
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    return {
        run.info.run_name: (
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            {k: v for k, v in run.data.tags.items() if k.startswith("smaug.") and k not in TOLD_OF_THE_MACHINE},
            {
                key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
        )
        for run in client.search_runs([found.experiment_id])
    }


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_ledger_told_from_records_is_the_one_told_from_the_store(new_home, tmp_path):
    here, there, records = new_home("here"), new_home("there"), tmp_path / "records"
    finished(here, "50%", "65%")
    killed, failed = trial("10%", pretrain={"kill_at": 2}), trial("25%", pretrain={"fail_at": 2})
    directory = Store(here).prepare(killed.stages[0])
    worker = subprocess.run([sys.executable, "-m", "experiments.worker", str(directory)], cwd=ROOT, check=False)
    assert worker.returncode == -9
    execute(here, failed, stages=1)
    for one in (killed, failed):
        write_trial(here, one)
    told = {"hours": 1.5, "unit": "CPU h", "source": "closed form", "time": 1000.0}
    write_json(directory / "prediction.json", told)
    assert write_records(here, records) == (8, 4)
    assert sync(here) == sync(there, records=records) == (8, 4)
    for experiment in (STAGES, "smaug/masking_ratio"):
        assert ledger_of(there, experiment) == ledger_of(here, experiment)
    by_kind = ledger_of(there, STAGES)
    assert sorted(run[0] for run in by_kind.values()) == ["FAILED", *["FINISHED"] * 6, "KILLED"]
    predicted = [run[5]["hours.predicted"] for run in by_kind.values() if "hours.predicted" in run[5]]
    assert predicted == [[(0, 1_000_000, 1.5)]]
    row = next(row for row in read_trials(there) if row.variant == "50%")
    assert MlflowReader(there).ranks(row, "msrvtt") == ranks_of(20.0)


def test_tables_made_from_records_hold_the_same_cells(new_home, tmp_path):
    here, there, records = new_home("here"), new_home("there"), tmp_path / "records"
    finished(here, "10%", "50%")
    write_records(here, records)
    sync(here)
    sync(there, records=records)
    cells = []
    for home in (here, there):
        make_tables(read_report(home), tmp_path / f"tables-{home.name}")
        lines = csv.DictReader((tmp_path / f"tables-{home.name}" / "cells.csv").open())
        cells.append([{key: value for key, value in line.items() if key != "runs"} for line in lines])
    assert cells[0] == cells[1]
    assert sum(bool(cell["measured"]) for cell in cells[0]) == 8


def test_records_are_equal_bytes_and_are_loaded_once(new_home, tmp_path):
    here, there = new_home("here"), new_home("there")
    finished(here, "50%")
    for name in ("once", "twice"):
        write_records(here, tmp_path / name)
    assert files_of(tmp_path / "once") == files_of(tmp_path / "twice")
    write_records(here, tmp_path / "once")
    assert files_of(tmp_path / "once") == files_of(tmp_path / "twice")
    sync(there, records=tmp_path / "once")
    before = ledger_of(there, STAGES) | ledger_of(there, "smaug/masking_ratio")
    assert sync(there, records=tmp_path / "once") == (3, 1)
    assert ledger_of(there, STAGES) | ledger_of(there, "smaug/masking_ratio") == before
    assert len(before) == 4


def test_what_a_home_did_itself_goes_before_the_records(new_home, tmp_path):
    here, there, records = new_home("here"), new_home("there"), tmp_path / "records"
    made = finished(here, "50%", "65%")
    write_records(here, records)
    finished(there, "50%")
    own = stage_record(there, "pretrain", made[0].stages[0].fingerprint)
    for _ in range(2):
        assert sync(there, records=records) == (6, 2)
        stages = ledger_of(there, STAGES)
        assert len(stages) == 6 and len(read_trials(there)) == 2
        told = stages[f"pretrain {own.fingerprint[:12]}"]
        assert told[5]["hours.useful"][0][2] == own.hours.useful and told[1] == round(own.started * 1000)


def test_a_stage_that_is_run_here_after_its_record_was_loaded_gets_a_run_of_its_own(new_home, tmp_path):
    here, there, records = new_home("here"), new_home("there"), tmp_path / "records"
    made = finished(here, "50%")[0]
    write_records(here, records)
    sync(there, records=records)
    finished(there, "50%")
    sync(there)
    client = MlflowClient(tracking_uri=f"sqlite:///{there / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(STAGES).experiment_id
    fingerprint = made.stages[0].fingerprint
    found = client.search_runs([experiment], f"tags.`smaug.fingerprint` = '{fingerprint}'")
    own = stage_record(there, "pretrain", fingerprint)
    (valid,) = [run for run in found if "smaug.superseded_by" not in run.data.tags]
    (other,) = [run for run in found if "smaug.superseded_by" in run.data.tags]
    assert valid.info.start_time == round(own.started * 1000) and valid.data.metrics["hours.useful"] == own.hours.useful
    assert other.data.tags["smaug.superseded_by"] == valid.info.run_id
    assert [m.step for m in client.get_metric_history(valid.info.run_id, "loss")] == [1, 2, 3]
    assert len(read_trials(there)) == 1


def test_a_long_curve_is_thinned_evenly_and_the_file_says_so(tmp_path):
    home, records = tmp_path / "home", tmp_path / "records"
    made = trial(pretrain={"steps": 250})
    execute(home, made, stages=1)
    write_trial(home, made)
    write_records(home, records)
    (path,) = (records / "stages").glob("pretrain/*.json")
    curve = json.loads(path.read_text())["curve"]
    steps = [point["step"] for point in curve["points"]]
    assert (len(steps), steps[0], steps[-1], curve["reported"], curve["thinned"]) == (100, 1, 250, 250, True)
    assert {after - before for before, after in zip(steps, steps[1:], strict=False)} == {2, 3}
    kept = {point.step: point for point in stage_record(home, "pretrain", made.stages[0].fingerprint).details.curve()}
    assert all(kept[point["step"]].raw == point for point in curve["points"])


def test_records_name_no_machine_and_no_folder(tmp_path):
    home, records = tmp_path / "home of Jane", tmp_path / "records"
    made = trial()
    execute(home, made)
    directory = home / "store" / "pretrain" / made.stages[0].fingerprint[:12]
    result, owner = read_json(directory / "result.json"), directory / "attempts" / "0001" / "owner.json"
    seen = {
        "source": "/data/of jane/w.pt",
        "said": "see /data/jane/w.pt, file:///net/x/y.pt or https://host/a/b",
        "n": 1,
    }
    write_json(directory / "result.json", result | {"notes": seen})
    write_json(owner, read_json(owner) | {"host": "janes-laptop"})
    end = read_json(owner.with_name("end.json"))
    message = f"{home}/data/a.mp4: cannot be read"
    write_json(owner.with_name("end.json"), end | {"message": message, "traceback": "File /usr/lib/x.py"})
    write_trial(home, made, marks=["--set pretrain.vision_weights=/home/jane/w.pt"])
    write_records(home, records)
    text = "".join(path.read_text() for path in records.rglob("*.json"))
    for word in (
        "jane",
        "Jane",
        str(tmp_path),
        "/data/of",
        "/net/",
        "/usr/",
        "boot",
        '"pid"',
        "process_started",
        "ticks",
    ):
        assert word not in text, word
    facts = read_records(records).stages[made.stages[0].fingerprint]
    kept = {"source": ".../w.pt", "said": "see .../w.pt, .../y.pt or https://host/a/b", "n": 1}
    assert facts.result.notes == kept
    assert facts.attempts[0].last.message == ".../a.mp4: cannot be read"
    assert read_records(records).documents[0].marks == ["--set pretrain.vision_weights=.../w.pt"]
    hosts = [f.host.host for f in read_records(records).stages.values()]
    assert all(host.startswith("host-") for host in hosts) and len(set(hosts)) == 2


def test_only_stages_of_valid_trials_are_recorded_and_old_records_leave(tmp_path):
    home, records = tmp_path / "home", tmp_path / "records"
    old, new = trial(r1=25.0), trial(r1=26.0)
    execute(home, old)
    write_trial(home, old)
    write_records(home, records)
    (records / "README.md").write_text("what this is")
    (records / "stages" / "evaluate" / "mine.json").write_text("{}")
    execute(home, new)
    write_trial(home, new)
    assert write_records(home, records) == (3, 1)
    names = sorted(path.name for path in (records / "stages" / "evaluate").iterdir())
    assert names == sorted([f"{new.stages[2].fingerprint[:12]}.json", "mine.json"])
    assert [path.name[:12] for path in (records / "trials").glob("*/*")] == [new.fingerprint[:12]]
    assert (records / "README.md").exists()
    with pytest.raises(RecordError, match=r"mine.json: is no record of a stage \(format None"):
        read_records(records)


def damage(path: Path, how: str) -> None:
    text = path.read_text()
    if how == "truncated":
        path.write_text(text[: len(text) // 2])
    elif how == "foreign":
        path.write_text("[1, 2]")
    elif how == "emptied":
        path.write_text("{}")


@pytest.mark.parametrize("how", ["truncated", "foreign", "emptied"])
@pytest.mark.parametrize("part", ["stages/finetune", "trials/masking_ratio"])
def test_a_damaged_record_is_named_and_nothing_is_told(new_home, tmp_path, part, how):
    here, there, records = tmp_path / "here", new_home("there"), tmp_path / "records"
    finished(here, "50%")
    write_records(here, records)
    (path,) = (records / part).glob("*.json")
    damage(path, how)
    with pytest.raises(RecordError, match=f"{part}/{path.name}: "):
        sync(there, records=records)
    client = MlflowClient(tracking_uri=f"sqlite:///{there / 'mlflow.db'}")
    assert client.get_experiment_by_name(STAGES) is None


def test_a_missing_parent_is_named(tmp_path):
    home, records = tmp_path / "home", tmp_path / "records"
    finished(home, "50%")
    write_records(home, records)
    (lost,) = (records / "stages" / "pretrain").glob("*.json")
    lost.unlink()
    with pytest.raises(RecordError, match=rf"stages/finetune/\w+.json: the stage it builds on, {lost.stem}, is not in"):
        read_records(records)


def test_nothing_to_record_and_no_records_are_errors(tmp_path):
    with pytest.raises(RecordError, match="holds no trial"):
        write_records(tmp_path / "home", tmp_path / "records")
    assert not (tmp_path / "records").exists()
    with pytest.raises(RecordError, match="expected a folder that `smaug sync --to` wrote"):
        read_records(tmp_path)
    assert trial_documents(tmp_path) == []


def test_a_trial_of_other_stages_and_a_missing_result_are_named(tmp_path):
    home, records = tmp_path / "home", tmp_path / "records"
    finished(home, "50%")
    write_records(home, records)
    (path,) = (records / "trials").glob("*/*.json")
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"stages": document["stages"][:1]}))
    with pytest.raises(RecordError, match=rf"{path.name}: was changed or damaged: its stages are those of another"):
        read_records(records)
    write_records(home, records)
    (result,) = (records / "stages" / "evaluate").iterdir()
    result.unlink()
    with pytest.raises(RecordError, match=rf"{result.name}: is missing; trials/masking_ratio/.* was recorded with it"):
        read_records(records)


def test_a_home_at_the_root_takes_nothing_out_of_addresses(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert portable._Places(tmp_path).left_out("see https://example.org/page") == "see https://example.org/page"


def test_a_record_of_another_form_is_named(tmp_path):
    finished(tmp_path / "home", "50%")
    write_records(tmp_path / "home", tmp_path / "out")
    (path,) = (tmp_path / "out" / "stages" / "finetune").glob("*.json")
    body = json.loads(path.read_text())
    del body["result"]["useful_s"]
    path.write_text(json.dumps(body))
    with pytest.raises(
        RecordError, match=rf"{path.name}: is no record of a stage \(result.useful_s: expected a number"
    ):
        read_records(tmp_path / "out")
