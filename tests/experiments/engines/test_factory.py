"""The engine of the command line: made by its name, and its module imported only then."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engines.base import local_inventory
from experiments.engines.factory import ENGINES, EngineFactory
from experiments.engines.inline import InlineEngine
from smaug_core.errors import SmaugError

ROOT = Path(__file__).parents[3]
PROFILE = ROOT / "slurm" / "a6000.yaml"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inline", {"address": "auto"}, "--address auto: is for Ray; expected --engine ray, got --engine inline"),
        ("slurm", {"address": "auto"}, "--address auto: is for Ray; expected --engine ray, got --engine slurm"),
        ("ray", {"cluster_file": PROFILE}, f"--cluster {PROFILE}: is for Slurm; expected --engine slurm, got"),
        ("slurm", {}, "--engine slurm: --cluster FILE is missing; expected a profile, e.g. slurm/a6000.yaml"),
    ],
)
def test_an_option_of_another_engine_or_a_missing_one_is_refused(
    tmp_path: Path, name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SmaugError) as refused:
        EngineFactory(name=name, home=tmp_path, **options)  # type: ignore[arg-type]
    assert str(refused.value).startswith(message)


def test_an_engine_is_made_by_its_name_and_knows_where_stages_would_run(tmp_path: Path) -> None:
    inline = EngineFactory(name="inline", home=tmp_path)
    assert isinstance(inline.make(), InlineEngine)
    assert inline.inventory() == EngineFactory(name="ray", home=tmp_path).inventory() == local_inventory()
    slurm = EngineFactory(name="slurm", home=tmp_path, cluster_file=PROFILE)
    assert slurm.inventory() == slurm.cluster.inventory and slurm.inventory().spans
    assert list(ENGINES) == ["ray", "inline", "slurm"]


def test_no_engine_is_imported_before_it_is_made(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from experiments.engines.factory import EngineFactory\n"
        "EngineFactory(name='ray', home=pathlib.Path('home')).inventory()\n"
        "EngineFactory(name='slurm', home=pathlib.Path('home'), cluster_file=pathlib.Path(sys.argv[1])).inventory()\n"
        "print(*sorted(name for name in sys.modules if name.startswith('experiments.engines.')))\n"
        "print(*sorted({'ray', 'submitit', 'torch'} & sys.modules.keys()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(PROFILE)], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    modules, heavy = ran.stdout.splitlines()
    assert modules.split() == [f"experiments.engines.{name}" for name in ("base", "factory", "slurm", "slurm.profile")]
    assert heavy == ""
