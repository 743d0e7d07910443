"""The scripts of the one-machine Slurm: they touch nothing where they may not."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import wait_until

FOLDER = Path(__file__).parents[1] / "slurm" / "one_machine"
HOSTS = Path("/etc/hosts")

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="as root: python -m pytest tests/test_one_machine.py")


def call(script: str, base: Path, allowed: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SMAUG_"))}
    told = {"SMAUG_SLURM_BASE": str(base)} | ({"SMAUG_ONE_MACHINE_SLURM": "1"} if allowed else {})
    return subprocess.run(
        [FOLDER / script], env=environment | told | more, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(autouse=True)
def hosts_are_kept() -> Iterator[None]:
    before = HOSTS.read_text()
    yield
    assert HOSTS.read_text() == before


def test_nothing_is_started_where_nobody_allowed_it(tmp_path: Path) -> None:
    ran = call("up.sh", tmp_path / "base", allowed=False)
    assert (ran.returncode, "SMAUG_ONE_MACHINE_SLURM=1" in ran.stderr) == (2, True)
    assert not (tmp_path / "base").exists()


@root_only
@pytest.mark.parametrize("script", ["up.sh", "down.sh"])
def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, script: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "thesis.tex").write_text("")
    ran = call(script, tmp_path / "base")
    assert (ran.returncode, "was not made by" in ran.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "base").iterdir()] == ["thesis.tex"]


@root_only
def test_beside_another_slurm_nothing_is_started(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, tmp_path / "slurmd")
    other = subprocess.Popen([tmp_path / "slurmd", "60"])
    try:
        wait_until(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "slurmd\n")
        ran = call("up.sh", tmp_path / "base")
    finally:
        other.kill()
        other.wait()
    assert (ran.returncode, "runs already" in ran.stderr) == (2, True)
    assert not (tmp_path / "base").exists()


@root_only
def test_one_that_keeps_no_accounts_is_not_taken_for_one_that_does(tmp_path: Path) -> None:
    (tmp_path / "base" / "run").mkdir(parents=True)
    (tmp_path / "base" / ".smaug-one-machine").touch()
    (tmp_path / "base" / "run" / "slurmctld.pid").write_text(str(os.getpid()))
    assert call("up.sh", tmp_path / "base").returncode == 0
    ran = call("up.sh", tmp_path / "base", SMAUG_SLURM_ACCOUNTING="1")
    assert (ran.returncode, "without accounts" in ran.stderr) == (2, True)


def test_what_is_not_up_is_down(tmp_path: Path) -> None:
    assert call("down.sh", tmp_path / "base").returncode == 0
