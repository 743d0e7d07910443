"""The ledger in a real MLflow database: recorded twice is recorded once, and what was killed is put right."""

import dataclasses
import fcntl
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from experiments.store.attempt import FAILURE, record_failure
from experiments.store.failures import Failure
from experiments.store.store import Store, all_stages, stage_record
from experiments.store.trials import trial_documents, trial_record, write_trial, write_trials
from experiments.tracking import client as connection
from experiments.tracking import database
from experiments.tracking.client import TrackingError
from experiments.tracking.location import tracking_uri
from experiments.tracking.reader import MlflowReader, read_trials
from experiments.tracking.run_content import STAGES
from experiments.tracking.sync import sync
from experiments.tracking.ui_views import NOTE
from experiments.tracking.writer import MlflowWriter
from reports.report import read_report
from tests.documents import read_json
from tests.experiments.made_trials import DATASET, execute, ranks_of, trial

ROOT = Path(__file__).resolve().parents[3]


def runs(client, experiment):
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def snapshot(client, experiment):
    """All that a run holds, point by point, and nothing that a reader would not see."""
    return {
        run.info.run_id: (
            run.info.status,
            run.info.run_name,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            {k: v for k, v in run.data.tags.items() if k.startswith("smaug.")},
            {
                key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            },
        )
        for run in runs(client, experiment)
    }


def facts_of(home, made):
    document = next(d for d in trial_documents(home) if d.fingerprint == made.fingerprint)
    return trial_record(home, document)


def test_a_sweep_is_laid_out_as_flat_trials_and_stages_that_own_their_hours(home, client):
    made = trial(r1=25.0)
    execute(home, made)
    write_trial(home, made)
    assert sync(home) == (3, 1)
    (run,) = runs(client, "smaug/masking_ratio")
    assert run.info.status == "FINISHED"
    assert run.data.params == {"pretrain.mask_ratio": "0.5"}
    assert run.data.metrics["msrvtt.t2v.r1"] == 25.0 and run.data.metrics["msrvtt.match_contrast.t2v.r1"] == 26.0
    assert run.data.metrics["row_hours.pretrain"] > 0
    tags = run.data.tags
    assert "mlflow.parentRunId" not in tags
    assert [tags[f"smaug.{k}"] for k in ("sweep", "variant", "seed", "scale")] == ["masking_ratio", "50%", "0", "tiny"]
    assert tags["smaug.fingerprint"] == made.fingerprint and tags["smaug.unit"] == "CPU h"
    assert json.loads(tags["smaug.test_digest"]) == {"msrvtt": "aaaa"}

    stages = {run.data.tags["smaug.kind"]: run for run in runs(client, STAGES)}
    assert json.loads(tags["smaug.stage_runs"])["pretrain"] == stages["pretrain"].info.run_id
    pretrain = stages["pretrain"]
    assert pretrain.info.run_name == f"pretrain {made.stages[0].fingerprint[:12]}"
    spent = {k.removeprefix("hours."): v for k, v in pretrain.data.metrics.items() if k.startswith("hours.")}
    assert spent["billed"] == pytest.approx(spent["useful"] + spent["lost"] + spent["overhead"])
    curve = client.get_metric_history(pretrain.info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    attempt = home / "store" / "pretrain" / made.stages[0].fingerprint[:12] / "attempts" / "0001"
    assert pretrain.info.start_time == round(read_json(attempt / "owner.json")["started"] * 1000)
    assert pretrain.info.end_time == round(read_json(attempt / "end.json")["time"] * 1000)
    accounts = json.loads(Path(client.download_artifacts(pretrain.info.run_id, "attempts.json")).read_text())
    assert [a["state"] for a in accounts["attempts"]] == ["done"]


def test_recording_again_adds_no_run_and_no_point(home, client):
    made = trial()
    execute(home, made)
    write_trial(home, made)
    sync(home)
    before = snapshot(client, STAGES) | snapshot(client, "smaug/masking_ratio")
    sync(home)
    writer = MlflowWriter(home)
    for _ in range(2):
        for facts in all_stages(home):
            writer.record_stage(facts)
        writer.record_trial(facts_of(home, made), driven=True)
    assert snapshot(client, STAGES) | snapshot(client, "smaug/masking_ratio") == before


def test_what_has_not_changed_costs_no_call(home, monkeypatch):
    made = trial()
    execute(home, made)
    write_trial(home, made)
    sync(home)
    for name in ("get_run", "create_run", "log_batch", "log_dict", "set_tag", "set_terminated", "update_run"):
        monkeypatch.setattr(MlflowClient, name, lambda *_, name=name, **__: pytest.fail(f"called {name}"))
    assert sync(home) == (3, 1)


def test_a_curve_of_many_points_arrives_in_several_calls(home, client):
    made = trial()
    execute(home, made, stages=1)
    (reported,) = (home / "store" / "pretrain").glob("*/attempts/0001/metrics.jsonl")
    lines = [json.dumps({"time": 1.0 * s, "step": s, "values": {"loss": 1.0 / s}}) + "\n" for s in range(1, 1001)]
    reported.write_text("".join(lines))
    run_id = MlflowWriter(home).record_stage(stage_record(home, "pretrain", made.stages[0].fingerprint))
    points = {m.step: m.value for m in client.get_metric_history(run_id, "loss")}
    assert points == {step: 1.0 / step for step in range(1, 1001)}


def test_a_run_that_was_deleted_in_mlflow_is_made_again(home, client):
    made = trial()
    execute(home, made)
    write_trial(home, made)
    writer = MlflowWriter(home)
    first = writer.record_trial(facts_of(home, made), driven=True)
    client.delete_run(first)
    execute(home, made)
    write_trial(home, made, marks=["changed"])
    second = writer.record_trial(facts_of(home, made), driven=True)
    assert second != first and [row.run_id for row in read_trials(home)] == [second]


def test_a_driver_that_hangs_with_the_lock_is_named(home, monkeypatch):
    monkeypatch.setattr(database, "LOCK_S", 0.1)
    with (home / "tracking.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match="tracking.lock: another process holds it"):
            MlflowWriter(home).prepare()


def test_more_facts_update_the_same_run(home, client):
    made = trial()
    write_trial(home, made)
    writer = MlflowWriter(home)
    first = writer.record_trial(facts_of(home, made), driven=True)
    assert client.get_run(first).info.status == "RUNNING"
    execute(home, made, stages=2)
    writer.record_trial(facts_of(home, made), driven=True)
    assert set(client.get_run(first).data.metrics) == {"row_hours.pretrain"}
    execute(home, made)
    assert writer.record_trial(facts_of(home, made), driven=True) == first
    run = client.get_run(first)
    assert run.info.status == "FINISHED" and "row_hours.total" in run.data.metrics


SET_UP = Failure(kind="user_error", cause="its job failed before the stage began: no such module")
WORDS = (
    "pretrain: its job ended before it made an attempt: `error: its job failed before the stage began: no such module"
)


@pytest.mark.parametrize("attempts", [0, 1])
def test_a_row_whose_job_failed_before_its_attempt_has_failed_and_says_why(home, client, attempts):
    made = trial(pretrain={"checkpoint_every": 1, "kill_at": 2, "kills": attempts})
    write_trial(home, made)
    directory = Store(home).prepare(made.stages[0])
    for _ in range(attempts):
        assert subprocess.run([sys.executable, "-m", "experiments.worker", directory], cwd=ROOT).returncode == -9
    record_failure(directory, SET_UP, "not tried again")
    sync(home)
    (row,), stages = runs(client, "smaug/masking_ratio"), runs(client, STAGES)
    assert f"{WORDS}; not tried again`" in row.data.tags[NOTE]
    assert row.info.end_time == round(read_json(directory / FAILURE)["time"] * 1000)
    assert [run.info.status for run in (row, *stages)] == ["FAILED"] * (1 + attempts)
    for run in stages:
        told = json.loads(Path(client.download_artifacts(run.info.run_id, "attempts.json")).read_text())
        assert told["failure"].items() >= {"class": "user_error", "seen": SET_UP.cause}.items()
    record_failure(
        directory, Failure(kind="cancelled", cause="Slurm ended job 7: CANCELLED"), "the same command continues"
    )
    sync(home)
    found = [*runs(client, "smaug/masking_ratio"), *runs(client, STAGES)]
    assert [run.info.status for run in found] == ["KILLED"] * (1 + attempts)
    execute(home, made)
    sync(home)
    (row,) = runs(client, "smaug/masking_ratio")
    assert row.info.status == "FINISHED" and "before it made an attempt" not in row.data.tags[NOTE]


def test_after_a_killed_driver_the_same_command_leaves_one_finished_run(home, client):
    made = trial()
    write_trial(home, made)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from experiments.store.trials import trial_documents, trial_record\n"
        "from experiments.tracking.writer import MlflowWriter\n"
        "home = Path(sys.argv[1])\n"
        "MlflowWriter(home).record_trial(trial_record(home, trial_documents(home)[0]), driven=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(home)], cwd=ROOT, check=False)
    assert killed.returncode == -9
    assert [run.info.status for run in runs(client, "smaug/masking_ratio")] == ["RUNNING"]
    sync(home)
    assert [run.info.status for run in runs(client, "smaug/masking_ratio")] == ["KILLED"]
    writer = MlflowWriter(home)
    writer.record_trial(facts_of(home, made), driven=True)
    assert [run.info.status for run in runs(client, "smaug/masking_ratio")] == ["RUNNING"]
    execute(home, made)
    writer.record_trial(facts_of(home, made), driven=True)
    assert [run.info.status for run in runs(client, "smaug/masking_ratio")] == ["FINISHED"]


def test_steps_done_again_after_a_kill_are_told_once(home, client):
    made = trial(pretrain={"steps": 4, "checkpoint_every": 2, "kill_at": 4})
    directory = Store(home).prepare(made.stages[0])
    worker = [sys.executable, "-m", "experiments.worker", str(directory)]
    assert subprocess.run(worker, cwd=ROOT, check=False).returncode == -9
    writer = MlflowWriter(home)
    # The killed worker had reported step 3, which its checkpoint of step 2 does not hold.
    metrics = directory / "attempts" / "0001" / "metrics.jsonl"
    lines = [json.dumps({"time": 1000.0 + s, "step": s, "values": {"loss": 1.0 / s}}) + "\n" for s in (1, 2, 3)]
    metrics.write_text("".join(lines))
    run_id = writer.record_stage(stage_record(home, "pretrain", made.stages[0].fingerprint))
    assert client.get_run(run_id).info.status == "KILLED"
    assert subprocess.run(worker, cwd=ROOT, check=False).returncode == 0
    assert writer.record_stage(stage_record(home, "pretrain", made.stages[0].fingerprint)) == run_id
    run = client.get_run(run_id)
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4]
    assert (run.info.status, run.data.tags["smaug.attempts"]) == ("FINISHED", "2")
    assert run.data.tags["smaug.hours_estimated"] == "true"


def test_a_failed_stage_is_recorded_as_failed(home, client):
    made = trial(pretrain={"fail_at": 2})
    execute(home, made, stages=1)
    write_trial(home, made)
    sync(home)
    assert [r.info.status for r in runs(client, STAGES) + runs(client, "smaug/masking_ratio")] == ["FAILED", "FAILED"]


def test_a_trial_with_another_fingerprint_supersedes_the_old_one_and_back(home, client):
    old, new = trial(r1=25.0), trial(r1=26.0)
    writer = MlflowWriter(home)
    write_trial(home, old)
    first = writer.record_trial(facts_of(home, old), driven=True)  # its driver is killed
    execute(home, new)
    write_trial(home, new)
    second = writer.record_trial(facts_of(home, new), driven=True)
    assert client.get_run(first).data.tags["smaug.superseded_by"] == second
    assert client.get_run(first).info.status == "KILLED"
    assert [row.run_id for row in read_trials(home)] == [second]
    sync(home)
    assert [row.run_id for row in read_trials(home)] == [second]
    execute(home, old)
    write_trial(home, old)
    sync(home)
    assert [row.run_id for row in read_trials(home)] == [first]
    assert client.get_run(second).data.tags["smaug.superseded_by"] == first


def test_a_table_compares_with_the_baseline_of_the_sweep_file_that_ran_last(home):
    original = trial("50%")
    sweep = original.sweep.model_copy(update={"variants": {"new": {}, "50%": {}}, "baseline": "new"})
    copied = [dataclasses.replace(original, sweep=sweep, variant=variant) for variant in ("new", "50%")]
    for trials, baseline in ((copied, "new"), ([original], "50%"), (copied, "new")):
        write_trials(home, [(one, []) for one in trials])
        sync(home)
        tables = [table for table in read_report(home).tables if table.trials and table.name == "4"]
        assert [(table.baseline, list(table.rows)[-1]) for table in tables] == [(baseline, "new")]


def test_a_stage_that_was_begun_anew_still_tells_its_hours(home):
    made = trial()
    for _ in range(2):
        execute(home, made)
        write_trial(home, made)
        sync(home)
        Store(home).archive(made.stages[0])
    execute(home, made)
    sync(home)
    ledger = MlflowReader(home)
    aside = ledger.archived()
    assert [stage.kind for stage in ledger.stages()] == ["evaluate", "finetune", "pretrain"]
    assert [(stage.kind, stage.fingerprint) for stage in aside] == [("pretrain", made.stages[0].fingerprint)] * 2
    assert all(stage.hours["billed"] > 0 and stage.versions["torch"] for stage in aside)
    assert len({stage.run_id for stage in (*aside, *ledger.stages())}) == 5


def test_a_lost_database_is_made_again_from_the_home_folder(home, empty_ledger):
    old, new, other = trial(r1=25.0), trial(r1=26.0), trial("10%", r1=30.0)
    for made in (old, new, other):
        execute(home, made)
        write_trial(home, made)
        MlflowWriter(home).record_trial(facts_of(home, made))
    before = [(row.variant, row.metrics) for row in read_trials(home)]
    shutil.copy(empty_ledger, home / "mlflow.db")
    assert read_trials(home) == []
    sync(home)
    assert [(row.variant, row.metrics) for row in read_trials(home)] == before
    assert [row.metrics["msrvtt.t2v.r1"] for row in read_trials(home)] == [30.0, 26.0]


def test_two_valid_runs_of_one_trial_are_both_given(home, client):
    old, new = trial(r1=25.0), trial(r1=26.0)
    for made in (old, new):
        write_trial(home, made)
        MlflowWriter(home).record_trial(facts_of(home, made))
    assert len(read_trials(home)) == 1
    for run in runs(client, "smaug/masking_ratio"):
        if "smaug.superseded_by" in run.data.tags:
            client.delete_tag(run.info.run_id, "smaug.superseded_by")
    assert {row.run_id for row in read_trials(home)} == {run.info.run_id for run in runs(client, "smaug/masking_ratio")}


def test_a_row_reads_back_what_was_recorded(home):
    made = trial("65%", r1=12.5)
    execute(home, made)
    write_trial(home, made, marks=["stale code accepted"])
    sync(home)
    (row,) = read_trials(home)
    assert (row.table, row.row_label, row.scale, row.variant, row.seed) == ("4", "Masking Ratio", "tiny", "65%", "0")
    assert (row.baseline, row.position, row.unit, row.marks) == ("50%", 3, "CPU h", ("stale code accepted",))
    assert row.columns == ("pretrain.hours", "msrvtt.t2v.r1", "msrvtt.t2v.r5", "msrvtt.t2v.r10")
    assert row.evaluations["msrvtt"]["dataset"] == DATASET and row.device and row.seeds == ("0", "0")
    assert MlflowReader(home).ranks(row, "msrvtt") == ranks_of(12.5)
    with pytest.raises(TrackingError, match="must hold ranks/other.json"):
        MlflowReader(home).ranks(row, "other")


def test_a_row_reads_back_which_clips_its_trainings_could_not_read(home):
    made = trial("65%")
    execute(home, made)
    write_trial(home, made)
    sync(home)
    assert read_trials(home)[0].unreadable == {}
    path = Store(home).directory(made.stages[1]) / "result.json"
    result = json.loads(path.read_text())
    result["notes"] = {
        "unreadable": {"/media/b.mp4": "no such file", "/media/a.mp4": "no such file"},
        "n_unreadable": 7,
    }
    path.write_text(json.dumps(result))
    sync(home)
    (row,) = read_trials(home)
    assert row.unreadable == {"finetune.msrvtt": {"count": 7, "files": ["/media/a.mp4", "/media/b.mp4"]}}


def test_a_metric_name_that_mlflow_would_refuse_is_told_by_name(home):
    made = trial()
    execute(home, made)
    write_trial(home, made)
    facts = facts_of(home, made)
    facts.stages[2][1].result.metrics["t2v.R@1"] = 1.0
    with pytest.raises(TrackingError, match="metric 'msrvtt.t2v.R@1': MLflow allows"):
        MlflowWriter(home).record_trial(facts)


def test_reading_without_a_database_makes_none(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert read_trials(tmp_path / "none") == []
    with pytest.raises(TrackingError, match="run a sweep first"):
        MlflowReader(tmp_path / "none").stages()
    assert not (tmp_path / "none").exists()


def test_an_unreachable_server_is_one_error_that_says_how_to_catch_up(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9: .*smaug sync"):
        MlflowWriter(tmp_path).prepare("masking_ratio")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("word " * 100 + "end", "word " * 100 + "end"),
        ("word " * 1000, "word " * 119 + "..."),
        ("database is locked\n[SQL: SELECT 1]\n(raised as a result of x)", "database is locked"),
        ("", "OSError"),
    ],
)
def test_an_error_is_one_line_and_never_cut_within_a_word(raised, message):
    with pytest.raises(TrackingError) as met, connection.translate_errors("http://x", "try again"):
        raise OSError(raised)
    assert str(met.value) == f"MLflow at http://x: {message}; try again"


def test_a_database_that_is_none_is_one_error(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_text("this is not a database, and longer than its header")
    with pytest.raises(TrackingError, match="mlflow.db"):
        MlflowWriter(tmp_path).prepare()


def test_the_environment_says_where_the_ledger_is(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://cluster:5000")
    assert tracking_uri(tmp_path) == "http://cluster:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_two_drivers_may_make_the_database_at_the_same_moment_and_share_the_runs(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    code = "import sys; from pathlib import Path; from experiments.tracking.sync import sync; sync(Path(sys.argv[1]))"
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    drivers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    told = [driver.communicate()[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], told
    assert told == [b"", b""]  # not a word of migrations
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (len(runs(client, STAGES)), len(runs(client, "smaug/masking_ratio"))) == (3, 1)


SYNC = (
    "import sys; from pathlib import Path; from experiments.tracking.sync import sync; print(sync(Path(sys.argv[1])))"
)


@pytest.mark.slow
def test_a_kill_while_the_database_is_made_leaves_none_and_the_next_one_makes_it(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    for delay in (0.05, random.uniform(0.1, 0.3), random.uniform(0.3, 0.8)):
        (tmp_path / "mlflow.db").unlink(missing_ok=True)
        driver = subprocess.Popen([sys.executable, "-c", SYNC, str(tmp_path)], cwd=ROOT, env=environment)
        until = time.monotonic() + 60
        while not (list(tmp_path.glob("mlflow.db")) or list(tmp_path.glob(".mlflow.db.*.partial"))):
            assert driver.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        time.sleep(delay)
        driver.kill()
        driver.wait()
        ran = subprocess.run(
            [sys.executable, "-c", SYNC, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "(1, 1)\n", "")
        assert not list(tmp_path.glob(".mlflow.db*"))


def test_a_database_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    writer = MlflowWriter(tmp_path)
    seen = []

    def cut_short(uri):
        seen.append(uri)
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half of one")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(connection, "_opened", cut_short)
        writer.prepare()
    assert len(seen) == 1 and not (tmp_path / "mlflow.db").exists() and list(tmp_path.glob(".mlflow.db.*.partial"))
    writer.prepare()
    assert (tmp_path / "mlflow.db").exists() and not list(tmp_path.glob(".mlflow.db.*"))


def test_a_database_that_was_half_made_is_to_be_set_aside(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as half:
        half.execute("CREATE TABLE entity_associations (association_id VARCHAR(36))")
    with pytest.raises(TrackingError, match="lacks the tables alembic_version, .*`smaug sync --rebuild` archives"):
        MlflowWriter(tmp_path).prepare()


def test_a_stage_reads_back_what_was_recorded(home):
    made = trial()
    execute(home, made)
    write_trial(home, made)
    sync(home)
    ledger = MlflowReader(home)
    (row,), stages = ledger.trials(), ledger.stages()
    assert [stage.kind for stage in stages] == ["evaluate", "finetune", "pretrain"]
    trained = stages[2]
    assert (trained.status, trained.unit, trained.attempts, trained.estimated) == ("FINISHED", "CPU h", 1, False)
    assert trained.hours.keys() == {"useful", "lost", "overhead", "billed"} and trained.hours["billed"] > 0
    assert row.stage_runs == {
        name: stage.run_id
        for name, stage in zip(("evaluate.msrvtt", "finetune.msrvtt", "pretrain"), stages, strict=True)
    }
    assert [step for step, _ in ledger.curve(trained, "loss")] == [1, 2, 3]
    assert '"attempts"' in ledger.text(trained, "attempts.json")
