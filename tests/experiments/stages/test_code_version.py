"""Which source files make a result, and which edits to them count."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.stages.code_version import ROOT, code_digest, differing
from experiments.stages.kinds import STAGE_KINDS

KINDS = ("pretrain", "finetune", "evaluate")
TRAINING_ONLY = {
    "smaug_core/training/train.py",
    "smaug_core/training/optim.py",
    "smaug_core/data/batches.py",
}
EVALUATION_ONLY = {"smaug_core/evaluation/retrieval.py", "smaug_core/evaluation/metrics.py"}
SHARED = {
    "smaug_core/stages.py",
    "smaug_core/config.py",
    "smaug_core/data/datasets.py",
    "smaug_core/data/sources/singularity.py",
    "smaug_core/data/moving_shapes/dataset.py",
    "smaug_core/data/moving_shapes/scenes.py",
    "smaug_core/data/prepare/rendering.py",
    "smaug_core/data/media/video.py",
    "smaug_core/model/smaug.py",
    "smaug_core/model/sparsify.py",
    "smaug_core/training/checkpoint.py",
}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The two packages, elsewhere, to be edited."""
    for package in ("smaug_core", "experiments"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests_in(root: Path) -> dict[str, dict[str, str]]:
    """The digests by kind, as a process finds them that imports the packages below `root`."""
    code = (
        "import json, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from experiments.stages.code_version import ROOT, code_digest\n"
        "assert str(ROOT) == sys.argv[1]\n"
        f"print(json.dumps({{kind: code_digest(kind) for kind in {KINDS!r}}}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, cwd=root, check=True)
    return json.loads(ran.stdout)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_stage_is_made_by_what_it_imports_and_by_nothing_else():
    files = {kind: set(code_digest(kind)) for kind in KINDS}
    for kind in ("pretrain", "finetune"):
        assert files[kind] >= SHARED | TRAINING_ONLY
        assert not files[kind] & EVALUATION_ONLY
    assert files["evaluate"] >= SHARED | EVALUATION_ONLY
    assert not files["evaluate"] & TRAINING_ONLY
    assert "smaug_core/cost/flops.py" not in files["pretrain"] | files["evaluate"]


@pytest.mark.parametrize("kind", ["pretrain", "evaluate"])
def test_whatever_python_loads_for_a_stage_is_among_its_files(kind):
    code = f"import sys, {', '.join(STAGE_KINDS[kind].entry_modules)}\n" + (
        "print(*(m.__file__ for name, m in sys.modules.items() if name.split('.')[0] == 'smaug_core'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {Path(name).relative_to(ROOT).as_posix() for name in ran.stdout.split()}
    for name in loaded - set(code_digest(kind)):  # a file that holds nothing of its own is left out
        body = ast.parse((ROOT / name).read_text()).body
        assert all(isinstance(statement, ast.Expr | ast.Import | ast.ImportFrom) for statement in body), name


def test_every_file_exists_and_is_named_from_the_root():
    for kind in KINDS:
        for name, digest in code_digest(kind).items():
            assert (ROOT / name).is_file() and name.startswith("smaug_core/")
            assert len(digest) == 64


def test_entries_are_what_the_stages_import_late():
    """The kinds are cut by hand: this turns red when stages.py imports another module in its functions."""
    tree = ast.parse((ROOT / "smaug_core" / "stages.py").read_text())
    (run,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
    late = {node.module for node in ast.walk(run) if isinstance(node, ast.ImportFrom)}
    entries = {module for kind in STAGE_KINDS.values() for module in kind.entry_modules}
    reached = {name.removesuffix(".py").replace("/", ".") for kind in KINDS for name in code_digest(kind)}
    assert late <= entries | reached


def test_comments_docstrings_and_imports_do_not_count(copied):
    before = digests_in(copied)
    for path in (copied / "smaug_core").rglob("*.py"):
        path.write_text(f"# a comment\n\n\n{path.read_text()}\n\nimport abc, sys\n# another\n")
    edit(copied / "smaug_core" / "config.py", "Seed of everything that is drawn", "The seed")
    assert digests_in(copied) == before


def test_a_moved_file_is_no_new_code(copied):
    """A module moves into a new package, and every import of it follows."""
    before = digests_in(copied)
    core = copied / "smaug_core"
    (core / "schedule").mkdir()
    (core / "schedule" / "__init__.py").write_text('"""Optimisation."""\n')
    (core / "training" / "optim.py").rename(core / "schedule" / "adamw.py")
    for path in core.rglob("*.py"):
        path.write_text(path.read_text().replace("smaug_core.training.optim", "smaug_core.schedule.adamw"))
    after = digests_in(copied)
    for kind in KINDS:
        assert differing(before[kind], after[kind]) == []
    assert "smaug_core/schedule/adamw.py" in after["pretrain"]


@pytest.mark.parametrize(
    ("name", "old", "new", "kinds"),
    [
        ("patches.py", "    return ", "    return  ", ()),
        ("training/optim.py", "(0.9, ", "(0.91, ", ("pretrain", "finetune")),
        ("evaluation/metrics.py", "100 * ", "101 * ", ("evaluate",)),
        ("config.py", "mask_ratio: float = 0.5", "mask_ratio: float = 0.4", KINDS),
        ("config.py", "    mask_ratio: float = 0.5", "    mask_share: float = 0.5", KINDS),
        ("cost/flops.py", "def ", "def another() -> None: ...\n\n\ndef ", ()),
    ],
)
def test_an_edit_counts_for_the_stages_that_import_the_file(copied, name, old, new, kinds):
    before = digests_in(copied)
    edit(copied / "smaug_core" / name, old, new)
    after = digests_in(copied)
    for kind in KINDS:
        assert differing(before[kind], after[kind]) == ([f"smaug_core/{name}"] if kind in kinds else [])


def test_a_module_that_is_imported_newly_counts_with_all_it_imports(copied):
    before = digests_in(copied)
    (copied / "smaug_core" / "fresh.py").write_text("from smaug_core import fresher\nVALUE = fresher.VALUE + 1\n")
    (copied / "smaug_core" / "fresher.py").write_text("VALUE = 1\n")
    edit(
        copied / "smaug_core" / "data" / "media" / "frame_sampling.py",
        "from collections",
        "import smaug_core.fresh\nfrom collections",
    )
    after = digests_in(copied)
    for kind in KINDS:
        names = ["smaug_core/fresh.py", "smaug_core/fresher.py"]
        assert differing(before[kind], after[kind]) == names


def test_an_edit_is_seen_by_a_process_that_runs(copied):
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[1])\n"
        "from experiments.stages.code_version import code_digest, differing\n"
        "before = code_digest('pretrain')\n"
        "path = Path(sys.argv[1], 'smaug_core/training/optim.py')\n"
        "path.write_text(path.read_text() + '\\nMORE = 1\\n')\n"
        "print(*differing(before, code_digest('pretrain')))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(copied)], capture_output=True, text=True, cwd=copied)
    assert ran.stdout.split() == ["smaug_core/training/optim.py"], ran.stderr


def test_differing_names_files_whose_content_only_one_version_has():
    assert differing({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "4", "d": "3", "e": "5"}) == ["b", "e"]
    assert differing({"a": "1", "b": "2"}, {"x": "2", "y": "1"}) == []
