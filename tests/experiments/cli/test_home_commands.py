"""Commands that inspect and maintain a home folder, as the command line runs them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store.drivers import cancel_requests, driver_at_work
from experiments.store.store import Store
from experiments.store.trials import write_trial
from experiments.worker.device import SLURM_JOB, SLURM_RESTART
from tests.experiments.made_trials import execute, trial
from tests.experiments.maintenance.test_status import working
from tests.experiments.smoke import ROOT


def test_logs_are_found_by_the_row_and_the_log_alone_is_on_standard_output(smaug, tmp_path):
    made = trial(pretrain={"refuse_at": 2})
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    code, out, err = smaug("logs", "masking_ratio/50%/pretrain")
    assert (code, out) == (0, "failed: clip 000007.mp4: told to refuse at step 2\n")
    assert err.startswith("pretrain 50%: attempt 1, process ")
    assert smaug("logs", made.stages[0].fingerprint[:4], "--follow")[:2] == (0, out)
    document = json.loads(smaug("logs", "50%/pretrain", "--json")[1])
    assert document["fingerprint"] == made.stages[0].fingerprint and document["state"] == "failed"
    assert document["end"]["message"] == "clip 000007.mp4: told to refuse at step 2"


def test_logs_of_what_is_not_one_stage_are_refused_with_the_candidates(smaug, tmp_path):
    write_trial(tmp_path, trial())
    code, out, err = smaug("logs", "50%")
    assert (code, out) == (2, "") and "  evaluate.msrvtt 50%\n" in err
    assert smaug("logs", "51%/pretrain")[::2] == (2, "51%/pretrain: is no stage here; did you mean '50%/pretrain'?\n")
    assert smaug("logs", "50%/pretrain", "--attempt", "2")[0] == 2
    assert smaug("logs", "50%/pretrain", "--json", "--follow")[0] == 2


def test_cancel_requests_the_end_of_what_runs_and_waits_and_names_the_driver(smaug, tmp_path):
    made = trial(pretrain={"steps": 8, "hold_at": 2})
    write_trial(tmp_path, made)
    directory = Store(tmp_path).prepare(made.stages[0])
    fingerprints = [stage.fingerprint for stage in made.stages]
    with driver_at_work(tmp_path, fingerprints), working(directory) as worker:
        code, out, _ = smaug("cancel", "50%/pretrain")
        assert code == 0 and cancel_requests(tmp_path).keys() == {fingerprints[0]}
        assert out.startswith(f"cancelling: pretrain 50% (running, process {worker.pid} on ")
        assert f"sent to: process {os.getpid()} on " in out
        assert "pretrain 50%: " in smaug("status")[1] and "cancelling" in smaug("status")[1]
        code, out, _ = smaug("cancel", "--all", "--json")
        assert [one["state"] for one in json.loads(out)["asked"]] == ["running", "new", "new"]
        assert cancel_requests(tmp_path).keys() == set(fingerprints)


def test_cancel_of_a_row_leaves_alone_what_is_done(smaug, tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    with driver_at_work(tmp_path, [stage.fingerprint for stage in made.stages]):
        code, _, err = smaug("cancel", "50%", "50%/pretrain")
        assert code == 2 and cancel_requests(tmp_path) == {}
        assert err.startswith("50%/pretrain: expected a running or waiting stage, got done; nothing was cancelled")
        assert smaug("cancel", "masking_ratio/50%")[0] == 0
        assert cancel_requests(tmp_path).keys() == {stage.fingerprint for stage in made.stages[1:]}


def test_cancel_all_reaches_stages_that_only_their_driver_knows(smaug, tmp_path):
    with driver_at_work(tmp_path, ["a" * 64]):
        code, out, _ = smaug("cancel", "--all")
    assert (
        code == 0 and "1 stages that only their driver knows" in out and cancel_requests(tmp_path).keys() == {"a" * 64}
    )


def test_without_an_active_driver_nothing_is_requested(smaug, tmp_path):
    code, out, err = smaug("cancel", "--all")
    assert (code, out) == (2, "")
    assert err == f"{tmp_path}: no driver is active, so nothing can be cancelled\n"
    made = trial(pretrain={"steps": 8, "hold_at": 2})
    write_trial(tmp_path, made)
    with working(Store(tmp_path).prepare(made.stages[0])) as worker:
        code, _, err = smaug("cancel", "50%/pretrain")
        assert code == 2 and f"running, process {worker.pid} on " in err and "end that process yourself" in err
    assert cancel_requests(tmp_path) == {}


def test_a_stage_that_is_a_slurm_job_is_shown_with_its_id_and_how_to_end_it(smaug, tmp_path, monkeypatch):
    made = trial(pretrain={"steps": 8, "hold_at": 2})
    write_trial(tmp_path, made)
    monkeypatch.setenv(SLURM_JOB, "7_1")
    monkeypatch.setenv(SLURM_RESTART, "0")
    with working(Store(tmp_path).prepare(made.stages[0])) as worker:
        where = f"process {worker.pid} on {socket.gethostname()}"
        code, _, err = smaug("cancel", "50%/pretrain")
        assert code == 2 and f"running, {where} (Slurm job 7_1); scancel 7_1 ends it, saved" in err
        assert f"{where} (Slurm job 7_1), attempt 1" in smaug("status")[1]
        assert f"{where}, Slurm job 7_1, since" in smaug("logs", "50%/pretrain")[2]
        (document,) = json.loads(smaug("status", "--json")[1])
    assert document["detail"]["pretrain"]["slurm_job"] == "7_1"


def test_a_driver_that_has_done_all_leaves_nothing_to_cancel(smaug, tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made)
    with driver_at_work(tmp_path, [stage.fingerprint for stage in made.stages]):
        assert smaug("cancel", "--all")[::2] == (2, f"{tmp_path}: no stage of a driver runs or waits\n")


@pytest.mark.parametrize("arguments", [[], ["50%", "--all"]])
def test_cancel_wants_names_or_all(smaug, arguments):
    code, _, err = smaug("cancel", *arguments)
    assert code == 2 and err.startswith("cancel: expected names of stages, or --all")


@pytest.mark.parametrize("verb", [["status", "--follow"], ["logs", "50%/pretrain"], ["cancel", "50%"], ["gc"]])
def test_a_verb_loads_no_heavy_library(verb, tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    execute(tmp_path, made, stages=1)
    code = (
        "import sys\n"
        "from experiments.cli.app import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    assert not {'torch', 'ray', 'mlflow', 'timm', 'transformers'} & set(sys.modules)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "SMAUG_HOME": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code, *verb], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "AssertionError" not in ran.stderr and ran.returncode in (0, 2), ran.stderr


@pytest.fixture
def replaced(tmp_path: Path) -> Path:
    """A home with one stage that no valid trial asks for; gives that stage's folder."""
    old, new = trial(r1=25.0), trial(r1=26.0)
    for made in (old, new):
        write_trial(tmp_path, made)
        execute(tmp_path, made)
    return Store(tmp_path).directory(old.stages[2])


def test_gc_says_what_could_go_and_deletes_nothing(smaug, tmp_path, replaced):
    code, out, err = smaug("gc")
    assert (code, err) == (0, "") and replaced.exists()
    where = os.path.relpath(replaced, tmp_path)
    lines = out.splitlines()
    assert lines[0].endswith(f"kB  {where}: evaluate.msrvtt, done: no valid trial needs it")
    assert lines[1].startswith(f"1 unused in {tmp_path}; --yes deletes ")
    document = json.loads(smaug("gc", "--json")[1])
    assert document["deleted"] is False and document["kept"] == []
    (one,) = document["garbage"]
    assert one["path"] == str(replaced) and one["bytes"] == document["bytes"] > 0 and not one["deleted"]


@pytest.mark.parametrize("options", [[], ["--yes"], ["--json"]])
def test_gc_beside_an_active_driver_is_refused(smaug, tmp_path, replaced, options):
    with driver_at_work(tmp_path, ["a" * 64]):
        code, out, err = smaug("gc", *options)
    assert (code, out) == (2, "") and replaced.exists()
    assert err.startswith(f"{tmp_path}: expected no active driver, got PID {os.getpid()} on {socket.gethostname()}; ")
    assert err.endswith("wait for it or cancel it (`smaug cancel --all`)\n")


def test_gc_deletes_after_the_ledger_has_the_hours_and_sync_keeps_them(smaug, tmp_path, replaced, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fingerprint = json.loads((replaced / "stage.json").read_text())["fingerprint"]
    code, out, err = smaug("gc", "--yes")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("1 deleted, ") and not replaced.exists()
    assert json.loads(smaug("sync", "--json")[1]) == {"stages": 3, "trials": 2, "accounted": 0}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smaug/stages")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`smaug.fingerprint` = '{fingerprint}'")
    assert run.info.status == "FINISHED" and run.data.metrics["hours.billed"] > 0
    assert smaug("gc")[1] == f"0 unused in {tmp_path}\n"


def test_sync_after_gc_leaves_the_record_of_a_superseded_trial(smaug, tmp_path, replaced, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    def recorded():
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        names = [e for e in client.search_experiments() if e.name not in ("smaug/stages", "Default")]
        runs = client.search_runs([experiment.experiment_id for experiment in names])
        return {run.info.run_id: (run.info.status, run.data.metrics, run.data.tags) for run in runs}

    smaug("sync")
    before = recorded()
    assert len(before) == 2
    assert smaug("gc", "--yes")[0] == 0 and not replaced.exists()
    smaug("sync")
    assert recorded() == before


def test_gc_keeps_what_mlflow_cannot_record(smaug, tmp_path, replaced, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, out, err = smaug("gc", "--yes")
    assert code == 1 and out.startswith("0 deleted") and replaced.exists()
    assert err.startswith(f"{replaced}: not deleted (MLflow at http://127.0.0.1:9: ")
