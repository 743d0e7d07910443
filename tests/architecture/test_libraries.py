"""Each library is met in few modules, and cheap commands stay cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN = {
    "smaug_core": {"ray", "mlflow", "submitit", "optuna", "pandas", "pydantic"},
    "reports": {"ray", "mlflow", "torch", "smaug_core.model", "smaug_core.training"},
}
ONLY_IN = {
    "mlflow": ("experiments/tracking/client.py",),
    "ray": ("experiments/engines/ray/session.py", "experiments/engines/ray/tune.py"),
    "submitit": ("experiments/engines/slurm/submit.py",),
    "rich": ("experiments/console.py",),
    "pandas": ("experiments/tracking/", "reports/analysis/"),
    "optuna": ("experiments/search/",),
    "matplotlib": ("reports/figures/",),
}
"""Modules, or folders with all their modules, that may import a library."""
PRINTS = {"print", "typer.echo", "typer.secho", "click.echo", "sys.stdout.write", "sys.stderr.write"}
TO_A_LOG = {  # the standard error of these is a file, which `smaug logs` shows
    "experiments/worker/reporter.py",
    "experiments/engines/slurm/job.py",
    "experiments/engines/ray/node.py",
}
HEAVY = {"torch", "ray", "submitit", "mlflow", "timm", "transformers", "pandas", "optuna"}


def imports_of(path: Path) -> set[str]:
    """Every module named in an import statement, anywhere in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_without_a_library_do_not_import_it(package):
    for path in sources(package):
        for module in imports_of(path):
            for forbidden in FORBIDDEN[package]:
                assert module != forbidden and not module.startswith(forbidden + "."), f"{path} imports {module}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_few_modules_import_the_library(library):
    users = [
        path.relative_to(ROOT).as_posix()
        for package in ("smaug_core", "experiments", "reports", "sweeps")
        for path in sources(package)
        if any(module.split(".")[0] == library for module in imports_of(path))
    ]
    astray = [user for user in users if not user.startswith(ONLY_IN[library])]
    assert not astray, f"{library} is imported in {', '.join(ONLY_IN[library])} alone, not in {astray}"
    unused = [place for place in ONLY_IN[library] if place.endswith(".py") and place not in users]
    assert not unused, f"no longer imports {library}: {unused}"


def calls_of(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Every call of a function by its dotted name, with its keyword arguments."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(c.func), {k.arg: ast.unparse(k.value) for k in c.keywords if k.arg}) for c in calls]


@pytest.mark.parametrize("package", ["smaug_core", "experiments", "reports"])
def test_there_is_one_way_to_print(package):
    for path in sources(package):
        name = path.relative_to(ROOT).as_posix()
        for function, keywords in calls_of(path):
            if name == "experiments/console.py":
                assert keywords.get("markup", "False") == "False" and "from_markup" not in function, function
            elif function in PRINTS:
                assert function == "sys.stderr.write" and name in TO_A_LOG, f"{name} calls {function}"
            if function == "typer.Typer":
                assert keywords.get("rich_markup_mode") == "None", name
    if package == "experiments":
        made = [
            keywords for function, keywords in calls_of(ROOT / "experiments/cli/app.py") if function == "typer.Typer"
        ]
        assert [keywords["pretty_exceptions_enable"] for keywords in made] == ["False"]


def test_reports_read_the_ledger_never_the_store():
    for path in sources("reports"):
        used = {m for m in imports_of(path) if m.startswith("experiments")}
        assert not used & {"experiments.store.store", "experiments.store.attempt", "experiments.scheduler.scheduler"}, (
            path
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["plan", "sweeps/masking_ratio.yaml"],
        ["plan", "sweeps/masking_ratio.yaml", "--engine", "slurm", "--cluster", "slurm/a6000.yaml"],
        ["status"],
        ["describe", "--scale", "paper"],
    ],
    ids=lambda a: " ".join(a),
)
def test_cheap_commands_load_no_heavy_library(arguments, tmp_path):
    code = (
        "import sys\n"
        "from experiments.cli.app import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        f"    loaded = {{m.split('.')[0] for m in sys.modules}} & {HEAVY!r}\n"
        "    assert not loaded, loaded\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "SMAUG_HOME": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr
