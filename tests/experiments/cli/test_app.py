"""The command line, run as people run it: what it says, what it leaves, and how it ends."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.smoke import ROOT, SCALE, SWEEP, Smoke


@pytest.fixture
def fresh(tmp_path: Path) -> Smoke:
    return Smoke(tmp_path)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> tuple[Smoke, "subprocess.CompletedProcess[str]"]:
    smoke = Smoke(tmp_path_factory.mktemp("cli"))
    return smoke, smoke.sweep("--only", "50%")


@pytest.fixture(scope="module")
def swept(first_run) -> Smoke:
    """A home in which the row 50% is done."""
    smoke, ran = first_run
    assert ran.returncode == 0, ran.stderr
    return smoke


def test_a_bad_sweep_is_told_whole_and_nothing_is_made(fresh):
    bad = fresh.folder / "bad.yaml"
    bad.write_text((ROOT / SWEEP).read_text().replace('"10%": {pretrain.mask_ratio', '"10%": {pretrain.mask_rate'))
    bad.write_text(bad.read_text().replace("tasks: [msrvtt]", "tasks: [msvrtt]"))
    for verb in ("run", "plan"):
        ran = fresh(verb, "bad.yaml")
        assert ran.returncode == 2
        assert ran.stderr.splitlines()[0].startswith("bad.yaml:5:11: setting 'pretrain.mask_rate' is unknown; did you")
        assert "bad.yaml:10:9: task 'msvrtt' is unknown" in ran.stderr
        assert "Traceback" not in ran.stderr and ran.stdout == ""
    assert not fresh.home.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan", "none.yaml"], "none.yaml: cannot be read (No such file or directory)"),
        (["plan", SWEEP, "--scale", "tinny"], "--scale tinny: expected one of paper, tiny or a .yaml file, got"),
        (["plan", SWEEP, "--only", "55%"], "--only 55%: variant '55%' is unknown; did you mean '65%'?"),
        (["plan", SWEEP, "--set", "data.sede=1"], "--set data.sede=1: setting 'data.sede' is unknown; did you mean"),
        (["plan", SWEEP, "--set", "pretrain.mask_ratio=0.3"], "--set pretrain.mask_ratio=0.3: pretrain.mask_ratio is"),
        (
            ["run", SWEEP, "--engine", "slurn"],
            "--engine slurn: expected one of ray, inline, slurm, got 'slurn'; did you mean 'slurm'?\n",
        ),
        (["pretrain", "--out", "x", "--device", "tpu"], "--device tpu: expected one of cpu, cuda, got 'tpu'"),
        (
            ["pretrain", "--out", "x", "--set", "pretrain.epochs=0"],
            "--set pretrain.epochs=0: pretrain.epochs: 0 is not",
        ),
        (["finetune", "--out", "x", "--from", "nowhere"], "--from nowhere: holds no model; expected"),
        (
            ["evaluate", "--out", "x", "--from", "nowhere", "--task", "kinetics"],
            "--task kinetics: scale tiny has msrvtt",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_a_line_and_nothing_is_made(fresh, arguments, told):
    ran = fresh(*arguments)
    assert ran.returncode == 2
    assert ran.stderr.startswith(told)
    assert len(ran.stderr.splitlines()) == 1
    assert not fresh.home.exists() and not (fresh.folder / "x").exists()


def test_a_user_without_a_name_and_a_home_can_plan_run_and_cancel(fresh, monkeypatch):
    """As in a container, where no account has the number that processes run under."""
    if os.getuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root, and setpriv")
    may = ("dac_override", "dac_read_search")  # the Python of root's own folder
    caps = [f"--{kind}-caps={','.join(f'+{one}' for one in may)}" for kind in ("inh", "ambient")]
    code = (
        "import getpass, pathlib; from experiments import cli\n"
        "from experiments.scheduler import notify\nfrom experiments.store import drivers\n"
        "assert drivers._user() == '12345'\n"
        "try:\n    cli.main()\nfinally:\n    print(getpass.getuser(), pathlib.Path.home(), notify.user_settings())"
    )
    fresh.folder.chmod(0o777)
    kept = {k: v for k, v in fresh.environment().items() if k not in ("HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME")}
    ran = subprocess.run(
        ["setpriv", "--reuid=12345", "--clear-groups", *caps, sys.executable, "-c", code, "run", SWEEP, "--plan"],
        env=kept | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("12345 / /.config/smaug/config.yaml\n")


LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status", "--home", ""], "Invalid value for '--home' (env var: 'SMAUG_HOME'): is empty; expected a path"),
        (["plan", ""], "Invalid value for 'FILE...': is empty; expected a path"),
        (["pretrain", "--out", ""], "Invalid value for '--out': is empty; expected a path"),
        (["report", "tables", "--out", ""], "Invalid value for '--out': is empty; expected a path"),
        (["report", "tables", "--from", ""], "Invalid value for '--from': is empty; expected a path"),
        (["status", "--home", "file"], "--home file: {}/file is not a folder; expected a folder"),
        (["plan", SWEEP, "--home", "file/home"], "--home file/home: {}/file is not a folder; expected a folder"),
        (["status", "--home", "circle"], "--home circle: cannot be used (Symlink loop from"),
        (["status", "--home", LONG], "a name in it has 300 bytes; expected at most 255"),
        (["plan", LONG], "a name in it has 300 bytes; expected at most 255"),
        (["plan", SWEEP, "--cluster", LONG], "a name in it has 300 bytes; expected at most 255"),
    ],
)
def test_paths_that_are_none_are_refused(smaug, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    code, out, err = smaug(*arguments)
    assert (code, out) == (2, "") and told.format(tmp_path) in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file"]


def test_without_slurm_here_nothing_is_rendered(fresh):
    profile = str(ROOT / "slurm" / "one_machine" / "profile.yaml")
    ran = fresh("run", SWEEP, "--engine", "slurm", "--cluster", profile, PATH="/nowhere")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "--engine slurm: there is no sbatch here; expected a machine that submits jobs\n"


@pytest.mark.parametrize(
    ("gpus", "problem"), [(8, None), (10, "gpus: 5 on each of 2 nodes is more than one stage can")]
)
def test_a_plan_for_slurm_knows_stages_on_several_nodes(fresh: Smoke, gpus: int, problem: str | None) -> None:
    scale, profile = fresh.folder / "apart.yaml", ROOT / "slurm" / "one_machine" / "profile.yaml"
    scale.write_text(SCALE.replace("pretrain: {cpus: 1, gpus: 0}", f"pretrain: {{nodes: 2, cpus: 4, gpus: {gpus}}}"))
    on_slurm = ("--engine", "slurm", "--cluster", str(profile))
    ran = fresh("plan", SWEEP, "--scale", str(scale), "--json", *on_slurm)
    problems = json.loads(ran.stdout)["problems"]
    assert [problem in told for told in problems] == ([True] if problem else [])
    assert not fresh.home.exists()


def test_a_plan_of_nothing_done(fresh):
    ran = fresh.sweep("--json", verb="plan")
    assert ran.returncode == 0
    told = json.loads(ran.stdout)
    each = told.pop("each")
    assert [(stage["name"], stage["state"], stage["hours"]) for stage in each[:2]] == [
        ("pretrain", "new", None),
        ("finetune.msrvtt", "new", None),
    ]
    assert told == {
        "trials": 4,
        "seeds": [{"pretrain": 0, "finetune": 0}],
        "stages": {
            "total": 12,
            "new": 12,
            "shared": 0,
            "cached": 0,
            "stale": 0,
            "resume": 0,
            "running": 0,
            "failed": 0,
            "unreadable": 0,
        },
        "pretrain_stages": 4,
        "hours": {
            "row_by_row": None,
            "to_spend": None,
            "unit": None,
            "source": "no earlier attempts of pretrain, finetune.msrvtt, evaluate.msrvtt",
            "pretrain": {"row_by_row": None, "to_spend": None},
        },
        "problems": [],
        "warnings": [],
    }
    assert fresh.sweep("--plan", "--json").stdout == ran.stdout
    assert not fresh.home.exists()


def test_more_than_there_is_is_a_problem_of_the_plan_and_refused_by_run(fresh):
    fresh.scale.write_text(
        fresh.scale.read_text().replace("pretrain: {cpus: 1, gpus: 0}", "pretrain: {cpus: 1, gpus: 99}")
    )
    planned, ran = fresh.sweep("--json", verb="plan"), fresh.sweep()
    (problem,) = json.loads(planned.stdout)["problems"]
    assert problem.startswith("resources.pretrain.gpus: 99 is more than one stage can have here")
    assert (planned.returncode, ran.returncode) == (0, 2)
    assert problem in ran.stderr
    assert not fresh.home.exists()


def test_a_sweep_runs_from_nothing_to_its_table(first_run):
    smoke, ran = first_run
    assert ran.returncode == 0, ran.stderr
    assert "1 trials, 3 stages (3 new)\nseeds: 0\n" in ran.stdout
    assert "evaluate.msrvtt 50%: done" in ran.stdout
    assert "Masking Ratio" in ran.stdout and "CPU h" in ran.stdout and "GPU h on" not in ran.stdout
    assert "3 stages run, 0 done before" in ran.stdout
    result = json.loads((smoke.stage("evaluate") / "result.json").read_text())
    assert result["notes"]["n_queries"] == result["notes"]["n_clips"] == 24
    assert 0 <= result["metrics"]["t2v.r1"] <= result["metrics"]["t2v.r10"] <= 100
    assert result["unit"] == "CPU h"


def test_the_same_command_again_trains_nothing(swept):
    before = swept.attempts()
    ran = swept.sweep("--only", "50%")
    assert ran.returncode == 0, ran.stderr
    assert "3 stages (3 cached)\nseeds: 0\nto spend: 0 CPU h" in ran.stdout
    assert "0 stages run, 3 done before" in ran.stdout
    assert swept.attempts() == before


def test_a_plan_prices_what_is_left_by_what_is_done(swept):
    ran = swept.sweep("--json", verb="plan")
    planned = json.loads(ran.stdout)
    assert planned["stages"] | {"total": 12, "new": 9, "cached": 3} == planned["stages"]
    assert planned["hours"]["unit"] == "CPU h"
    assert "median of earlier stages of the same shape" in planned["hours"]["source"]
    spend, whole = planned["hours"]["to_spend"], planned["hours"]["row_by_row"]
    assert spend == pytest.approx(whole * 3 / 4, rel=0.05), "masked more, a row costs a little less"
    text = swept.sweep(verb="plan").stdout
    assert text.count("cached") == 1 + 3 and "  pretrain 10%" in text


def test_what_costs_more_than_allowed_is_not_started(swept):
    before = swept.attempts()
    for verb in ("run", "plan"):
        ran = swept.sweep("--max-hours", "0.0000001", verb=verb)
        assert ran.returncode == 3
    assert "to spend, 1e-07 allowed; raise --max-hours" in swept.sweep("--max-hours", "0.0000001").stderr
    assert swept.sweep("--max-hours", "0.0000001", "--only", "50%", verb="plan").returncode == 0
    assert swept.attempts() == before


def test_a_budget_of_the_file_is_a_limit_too(swept):
    own = swept.folder / "own.yaml"
    own.write_text((ROOT / SWEEP).read_text().replace("budget: {tiny: 2}", "budget: {smoke: 1.0e-7}"))
    plan = ["plan", "own.yaml", "--scale", str(swept.scale)]
    assert swept(*plan).returncode == 3
    assert swept(*plan, "--max-hours", "9").returncode == 0


def test_status_tells_where_every_trial_stands(swept):
    ran = swept("status", "--json")
    stages = {"pretrain": "done", "finetune.msrvtt": "done", "evaluate.msrvtt": "done"}
    identity = {"sweep": "masking_ratio", "scale": "smoke", "variant": "50%", "seed": "0"}
    (told,) = json.loads(ran.stdout)
    assert told | identity | {"stages": stages, "state": "done"} == told
    assert told["detail"]["pretrain"]["folder"] == str(swept.stage("pretrain"))
    assert "50% seed 0:  pretrain done" in swept("status").stdout


def test_status_of_an_empty_home(fresh):
    assert json.loads(fresh("status", "--json").stdout) == []
    ran = fresh("status")
    assert (ran.returncode, ran.stdout) == (0, f"no runs in {fresh.home}\n")


def test_tables_of_a_home_show_published_and_measured_numbers(swept):
    ran = swept("report", "tables", "4", "--out", "out")
    assert ran.returncode == 0, ran.stderr
    assert sorted(path.name for path in (swept.folder / "out").iterdir()) == [
        "cells.csv",
        "table_4.csv",
        "table_4.md",
        "table_4.tex",
    ]
    cells = list(csv.DictReader((swept.folder / "out" / "cells.csv").open()))
    filled = {cell["row"] for cell in cells if cell["measured"]}
    assert filled == {"50%"}
    result = json.loads((swept.stage("evaluate") / "result.json").read_text())
    (cell,) = [c for c in cells if c["measured"] and c["column"] == "msrvtt.t2v.r1"]
    assert float(cell["measured"]) == pytest.approx(result["metrics"]["t2v.r1"], abs=0.1)
    assert cell["published"] == "39.3"


def test_an_unknown_table_is_refused(swept):
    ran = swept("report", "tables", "99", "--out", "none")
    assert ran.returncode == 2 and "table '99' is unknown" in ran.stderr
    assert not (swept.folder / "none").exists()


def test_results_of_other_code_are_refused_with_the_files_that_differ(swept, tmp_path):
    other = swept.copy(tmp_path)
    edit_code(other.stage("pretrain"))
    ran = other.sweep("--only", "50%")
    assert ran.returncode == 2
    assert "pretrain 50%: was made by other code; changed files: smaug_core/patches.py\n" in ran.stderr
    assert "--accept-stale" in ran.stderr and "--rerun-stale" in ran.stderr
    planned = json.loads(other.sweep("--only", "50%", "--json", verb="plan").stdout)
    assert planned["stages"] | {"stale": 1, "cached": 2, "new": 0} == planned["stages"]
    assert other.attempts() == swept.attempts()


def edit_code(stage: Path) -> None:
    """Let a result say that it was made by another masking.py."""
    path = stage / "result.json"
    result = json.loads(path.read_text())
    result["code"]["smaug_core/patches.py"] = "0" * 64
    path.write_text(json.dumps(result))


def test_an_outdated_result_that_is_accepted_is_marked(swept, tmp_path):
    other = swept.copy(tmp_path)
    edit_code(other.stage("pretrain"))
    ran = other.sweep("--only", "50%", "--accept-stale")
    assert ran.returncode == 0, ran.stderr
    assert "stale code accepted" in ran.stdout
    assert other.attempts() == swept.attempts()


@pytest.mark.parametrize("python", [sys.executable, str(Path(sys.base_prefix) / "bin" / "python3")])
def test_the_script_runs_from_any_folder_with_any_python(fresh, python):
    script = [python, str(ROOT / "sweeps" / "run.py")]
    ran = subprocess.run(
        [*script, SWEEP, "--plan", "--json"],
        capture_output=True,
        text=True,
        cwd=fresh.folder,
        env=fresh.environment(PATH="/usr/bin:/bin"),
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["trials"] == 4


def test_the_script_says_what_is_missing_where_nothing_is_installed(tmp_path):
    (tmp_path / "sweeps").mkdir()
    script = tmp_path / "sweeps" / "run.py"
    script.write_text((ROOT / "sweeps" / "run.py").read_text())
    bare = [str(Path(sys.base_prefix) / "bin" / "python3"), "-S", str(script), SWEEP]
    ran = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith("missing packages: typer") and f"run `make setup` in {tmp_path}" in ran.stderr


def test_a_plan_says_why_a_stage_is_not_cached(swept):
    each = json.loads(swept.sweep("--json", verb="plan").stdout)["each"]
    asked = next(stage["fingerprint"] for stage in each if stage["state"] == "new" and stage["name"] == "pretrain")
    told = swept.sweep("--why", asked[:10], verb="plan").stdout
    assert "first difference: pretrain.mask_ratio: 0.5 there, 0.1 here" in told
    document = json.loads(swept.sweep("--why", asked[:10], "--json", verb="plan").stdout)
    assert document["differences"] == [{"name": "pretrain.mask_ratio", "there": 0.5, "here": 0.1}]
    assert swept.sweep("--why", "zzzz", verb="plan").returncode == 2


def test_a_run_answers_programs(swept):
    ran = swept.sweep("--only", "50%", "--json")
    told = json.loads(ran.stdout)
    assert (told["done"], len(told["cached"]), told["failed"], told["interrupted"]) == ([], 3, [], False)
    assert told["hours"]["spent"] == 0 and told["recorded"]


def test_a_limit_that_is_used_up_is_told_before_anything_is_rendered_or_timed(fresh):
    for verb, more in (("run", ()), ("plan", ("--probe",)), ("plan", ())):
        ran = fresh.sweep("--only", "50%", "--max-hours", "0", *more, verb=verb)
        assert (ran.returncode, ran.stderr) == (
            3,
            "the hours to spend are not known, and any new stage exceeds the 0 allowed; raise --max-hours or the"
            " file's budget\n",
        )
        assert not fresh.home.exists()


def test_a_limit_is_checked_against_a_probe_where_nothing_else_tells_hours(fresh):
    ran = fresh.sweep("--only", "50%", "--engine", "inline", "--max-hours", "0.0000001")
    assert ran.returncode == 3
    assert "closed form at the rate of a probe: pretrain, finetune.msrvtt, evaluate.msrvtt" in ran.stderr
    assert not (fresh.home / "store").exists(), "a probe leaves a rate, no result"
    planned = json.loads(fresh.sweep("--only", "50%", "--json", verb="plan").stdout)
    assert {stage["source"] for stage in planned["each"]} == {"probe"}
    assert planned["hours"]["unit"] == "CPU h"
