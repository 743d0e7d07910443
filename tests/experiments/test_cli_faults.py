"""The command line when things break: damaged clips, no MLflow, other code, Ctrl-C; and stages without a sweep."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.experiments.smoke import Smoke

pytestmark = pytest.mark.slow

LONG = ["--set", "pretrain.epochs=100"]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Smoke:
    """A home in which the row 50% is done."""
    smoke = Smoke(tmp_path_factory.mktemp("cli"))
    ran = smoke.sweep("--only", "50%")
    assert ran.returncode == 0, ran.stderr
    return smoke


@pytest.fixture
def smoke(done: Smoke, tmp_path: Path) -> Smoke:
    """A copy of it, to be broken."""
    return done.copy(tmp_path)


def clips_of(smoke: Smoke) -> list[Path]:
    return sorted(smoke.home.glob("data/moving_shapes/*/clips/test/*.mp4"))


def test_outdated_results_are_run_again_with_all_that_was_made_from_them(smoke):
    path = smoke.stage("finetune") / "result.json"
    result = json.loads(path.read_text())
    result["code"]["smaug_core/patches.py"] = "0" * 64
    path.write_text(json.dumps(result))
    kept = {kind: (smoke.stage(kind) / "result.json").read_text() for kind in ("pretrain", "finetune", "evaluate")}
    ran = smoke.sweep("--only", "50%", "--rerun-stale")
    assert ran.returncode == 0, ran.stderr
    assert "2 stages archived" in ran.stderr and "2 stages run, 1 done before" in ran.stdout
    assert (smoke.stage("pretrain") / "result.json").read_text() == kept["pretrain"]
    for kind in ("finetune", "evaluate"):
        now, aside = sorted((smoke.home / "store" / kind).iterdir())
        assert aside.name == f"{now.name}.aside-1"
        assert (aside / "result.json").read_text() == kept[kind] != (now / "result.json").read_text()
    again = smoke.sweep("--only", "50%", "--json", verb="plan")
    assert json.loads(again.stdout)["stages"]["cached"] == 3


def test_a_test_clip_that_cannot_be_read_fails_the_evaluation_by_name(smoke):
    shutil.rmtree(smoke.stage("evaluate"))
    clip = clips_of(smoke)[2]  # not among the sample that is compared when the data is opened
    clip.write_bytes(clip.read_bytes()[:400])
    ran = smoke.sweep("--only", "50%")
    assert ran.returncode == 1
    assert f"evaluate.msrvtt 50% failed: {clip}: " in ran.stderr
    assert f"its folder: {smoke.stage('evaluate')}" in ran.stderr
    assert not (smoke.stage("evaluate") / "result.json").exists()
    assert "Traceback" not in ran.stderr
    assert json.loads(smoke.sweep("--only", "50%", "--json", verb="plan").stdout)["stages"]["failed"] == 1


def test_data_that_decodes_to_something_else_is_told(smoke):
    shutil.rmtree(smoke.stage("evaluate"))
    first, second = clips_of(smoke)[:2]
    first.write_bytes(second.read_bytes())
    ran = smoke.sweep("--only", "50%")
    assert ran.returncode == 1
    assert "test is damaged" in ran.stderr and "render it again" in ran.stderr
    assert not (smoke.stage("evaluate") / "result.json").exists()


def test_a_failed_stage_is_tried_again_when_asked(smoke):
    shutil.rmtree(smoke.stage("evaluate"))
    clip = clips_of(smoke)[2]
    whole = clip.read_bytes()
    clip.write_bytes(b"")
    assert smoke.sweep("--only", "50%").returncode == 1
    clip.write_bytes(whole)
    assert smoke.sweep("--only", "50%").returncode == 1
    ran = smoke.sweep("--only", "50%", "--retry-failed")
    assert ran.returncode == 0, ran.stderr
    assert "1 stages run, 2 done before" in ran.stdout


def test_without_mlflow_a_run_finishes_warns_once_and_can_be_recorded_later(smoke):
    shutil.rmtree(smoke.stage("evaluate"))
    ran = smoke.sweep("--only", "50%", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert ran.returncode == 0, ran.stderr
    assert (smoke.stage("evaluate") / "result.json").exists()
    assert ran.stdout.count("not recorded:") == 1 and "127.0.0.1:9" in ran.stdout
    assert "smaug sync" in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr
    first, second = smoke("sync"), smoke("sync")
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout == "3 stages and 1 trials are recorded\n"


@pytest.mark.nightly
def test_stages_run_without_a_sweep(done, tmp_path):
    smoke = Smoke(tmp_path)
    shutil.copytree(done.home / "data", smoke.home / "data")
    scale = ["--scale", str(smoke.scale)]
    first = smoke("pretrain", "--out", "pre", *scale)
    second = smoke("finetune", "--from", "pre", "--out", "fine", *scale)
    third = smoke("evaluate", "--from", "fine", "--out", "scores", *scale)
    for ran in (first, second, third):
        assert ran.returncode == 0, ran.stderr
    values = dict(line.split() for line in third.stdout.splitlines() if line.startswith(("t2v.", "v2t.")))
    assert values.keys() >= {"t2v.r1", "t2v.r5", "t2v.r10", "t2v.median_rank", "v2t.r1"}
    assert len(json.loads((smoke.folder / "scores" / "ranks.json").read_text())["t2v"]) == 24
    assert not (smoke.home / "store").exists()
    swept = json.loads((done.stage("evaluate") / "result.json").read_text())["metrics"]
    alone = json.loads((smoke.folder / "scores" / "metrics.json").read_text())
    assert {name: alone[name] for name in swept} == swept
    other = smoke("evaluate", "--from", "fine", "--out", "scores", *scale, "--set", "evaluate.msrvtt.rerank=2")
    assert other.returncode == 2
    assert other.stderr == (
        "scores: holds evaluate.msrvtt with another stage.settings.evaluate.rerank: 4, now 2; choose another --out\n"
    )


@pytest.mark.nightly
def test_ctrl_c_saves_and_the_same_command_continues(done, tmp_path):
    smoke = Smoke(tmp_path)
    shutil.copytree(done.home / "data", smoke.home / "data")
    command = ["pretrain", "--out", "pre", "--scale", str(smoke.scale), *LONG]
    running = start(smoke, *command)
    wait_for_line(running, "pretrain 40/")
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert told.strip().endswith("; the same command continues") and "Traceback" not in told
    saved = max((smoke.folder / "pre" / "checkpoints").glob("step-*"))  # a slow machine has saved once before
    assert int(saved.name.removeprefix("step-")) >= 40
    other = smoke(*command[:-2], "--set", "pretrain.epochs=101")
    assert other.returncode == 2 and "holds pretrain with another stage.settings.pretrain.epochs" in other.stderr
    again = smoke(*command)
    assert again.returncode == 0, again.stderr
    assert "pretrain 40/200" not in again.stdout and "pretrain 200/200" in again.stdout
    assert (smoke.folder / "pre" / "model" / "config.json").exists()
    assert not (smoke.folder / "pre" / "checkpoints").exists()


@pytest.mark.nightly
def test_ctrl_c_stops_a_sweep_and_the_same_command_continues(done, tmp_path):
    smoke = Smoke(tmp_path)
    shutil.copytree(done.home / "data", smoke.home / "data")
    arguments = ["run", "sweeps/masking_ratio.yaml", "--scale", str(smoke.scale), "--engine", "inline", "--only", "50%"]
    running = start(smoke, *arguments, *LONG, "--notify", "tee heard")
    progress = smoke.home / "store" / "pretrain"
    wait_until(lambda: any(progress.glob("*/attempts/0001/metrics.jsonl")))
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "stopped; the same command continues" in told and "Traceback" not in told
    heard = json.loads((smoke.folder / "heard").read_text())
    assert heard["message"] == "the run was stopped; the same command continues: nothing was done"
    assert len(list(progress.glob("*/checkpoints/step-*"))) == 1
    again = smoke(*arguments, *LONG)
    assert again.returncode == 0, again.stderr
    assert "(2 new, 1 resume)" in again.stdout
    assert len(list(progress.glob("*/attempts/0*"))) == 2


def start(smoke: Smoke, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-u", "-c", "from experiments.cli.app import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=smoke.folder,
        env=smoke.environment(),
    )


def wait_for_line(running: "subprocess.Popen[str]", start: str) -> None:
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"ended without a line that starts with {start!r}")


def wait_until(holds, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
