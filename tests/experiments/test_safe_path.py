"""Stages run in a folder whose files have the names of modules; none of these is imported, by any process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engines.command import worker_job
from experiments.engines.slurm.job import FOLDER
from experiments.scheduler.notify import Notifier
from experiments.store.store import Store
from experiments.worker.import_path import SAFE_PATH, SOURCES, import_environment
from tests.quick_stage import quick_stage

DRIVER = """
import dataclasses, sys, time
from pathlib import Path
from experiments.engines.command import worker_job
from experiments.engines.{module} import {engine}
from experiments.store.store import Store
from tests.quick_stage import quick_stage

if __name__ == "__main__":
    store, stage = Store(Path(sys.argv[1])), quick_stage()
    job = worker_job(stage, store.prepare(stage), store.home / "data")
    job = dataclasses.replace(job, command=(*job.command, *sys.argv[2:]))
    engine = {engine}({arguments})
    try:
        engine.submit(job)
        while not (state := engine.poll()[job.name]).ended:
            time.sleep(0.1)
        print(state)
    finally:
        engine.close()
"""


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder whose modules note that they were imported, and fail."""
    folder = tmp_path / "trap"
    (folder / "experiments").mkdir(parents=True)
    for name in ("random.py", "types.py", "socket.py", "mlflow.py", "ray.py", "experiments/__init__.py"):
        note = f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r} + chr(10))\nraise ImportError({name!r})\n"
        (folder / name).write_text(note)
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a user who has `tests` on PYTHONPATH, not the source tree, and an empty entry, as careless scripts leave."""
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tests").symlink_to(SOURCES / "tests")
    return os.environ | {"PYTHONPATH": f"{tmp_path / 'path'}:", "CUDA_VISIBLE_DEVICES": ""}


def run_in(trap: Path, environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    ran = subprocess.run(command, cwd=trap, env=environment, capture_output=True, text=True, timeout=300)
    noted = trap.parent / "imported"
    assert not noted.exists(), f"imported {noted.read_text()}; {ran.stdout}{ran.stderr}"
    return ran


def drive(trap: Path, environment: dict[str, str], engine: str, *options: str) -> str:
    """Run a stage by a driver that, like `smaug`, has not its working directory on its own path."""
    module, arguments = {"InlineEngine": ("inline", ""), "RayEngine": ("ray.engine", "store.home")}[engine]
    script = trap.parent / "driver.py"
    script.write_text(DRIVER.format(module=module, engine=engine, arguments=arguments))
    home = trap.parent / "home"
    entries = environment["PYTHONPATH"].strip(":")  # an empty entry would trap the driver itself, as any Python
    ran = run_in(trap, environment | {"PYTHONPATH": entries}, sys.executable, str(script), str(home), *options)
    logs = "".join(path.read_text() for path in home.rglob("l*.txt"))
    return f"{ran.stdout}{ran.stderr}{logs}"


def test_a_job_imports_nothing_from_the_folder_it_is_started_in(
    trap: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    store, stage = Store(tmp_path / "home"), quick_stage()
    job = worker_job(stage, store.prepare(stage), tmp_path / "data")
    ran = run_in(trap, environment | dict(job.env), *job.command)
    assert (ran.returncode, store.record(stage).state) == (0, "done"), ran.stderr


def test_ranks_of_a_stage_that_runs_in_the_driver_import_nothing_from_there(
    trap: Path, environment: dict[str, str]
) -> None:
    told = drive(trap, environment, "InlineEngine", "--processes", "2")
    assert "exit_code=0" in told, told


@pytest.mark.slow
def test_rays_processes_import_nothing_from_there(trap: Path, environment: dict[str, str]) -> None:
    told = drive(trap, environment, "RayEngine", "--processes", "2")
    assert "exit_code=0" in told, told


def test_a_slurm_jobs_worker_runs_in_its_stages_folder(
    trap: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    store, stage, folder = Store(tmp_path / "home"), quick_stage(), tmp_path / "folder"
    directory = store.prepare(stage)
    job = worker_job(stage, directory, tmp_path / "data")
    for name in ("jobs", "cancel", "ended"):
        (folder / name).mkdir(parents=True)
    told = {"name": job.name, "command": list(job.command), "env": dict(job.env)}
    (folder / "jobs" / f"{directory.name}.json").write_text(json.dumps(told))
    code = f"from experiments.engines.slurm.job import run; run({str(directory)!r})"
    slurm = {"SLURM_JOB_ID": "15", FOLDER: str(folder)}
    ran = run_in(trap, environment | dict(job.env) | slurm, sys.executable, "-c", code)
    assert (ran.returncode, store.record(stage).state) == (0, "done"), ran.stderr


@pytest.mark.parametrize("python", [(), ("-S",)], ids=["installed", "handed over"])
def test_sweeps_run_py_imports_neither_from_the_folder_it_is_called_in_nor_from_the_tree(
    trap: Path, environment: dict[str, str], python: tuple[str, ...], tmp_path: Path
) -> None:
    """Not from `sweeps/` either, which a user may keep files in; `-S`: a Python without packages."""
    tree = tmp_path / "tree"
    (tree / "sweeps").mkdir(parents=True)
    for name in ("experiments", "smaug_core", ".venv"):
        (tree / name).symlink_to(SOURCES / name)
    (tree / "sweeps" / "run.py").write_text((SOURCES / "sweeps" / "run.py").read_text())
    for folder in (tree, tree / "sweeps"):
        for name in ("random.py", "types.py", "socket.py"):
            (folder / name).write_text((trap / name).read_text())
    plain = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    ran = run_in(trap, plain, sys.executable, *python, str(tree / "sweeps" / "run.py"), "--help")
    assert (ran.returncode, "--max-hours" in ran.stdout) == (0, True), ran.stderr


def test_the_source_tree_is_on_pythonpath_only_where_python_does_not_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"PYTHONPATH": os.pathsep.join(["", "own", "/some/where", ""])}
    own = [str(Path.cwd() / "own"), "/some/where"]
    assert import_environment(given) == {"PYTHONPATH": os.pathsep.join(own), SAFE_PATH: "1"}
    monkeypatch.setattr(sys, "meta_path", [])
    assert import_environment(given)["PYTHONPATH"] == os.pathsep.join([str(SOURCES), *own])


def test_a_command_of_the_users_own_imports_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SAFE_PATH, "1")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "mail.py").write_text("import beside")
    complaints: list[str] = []
    with Notifier([sys.executable, str(tmp_path / "mail.py")], {}, complaints.append) as notifier:
        notifier.send("end", "it ended")
    assert complaints == []
