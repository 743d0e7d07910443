#!/usr/bin/env python3
"""`python sweeps/run.py FILE.yaml`: the same as `smaug run FILE.yaml`, from any folder, with any Python.

A Python that lacks the packages hands over to the one that `make setup` installs them for.
"""

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("typer", "pydantic", "ruamel.yaml", "torch", "ray", "mlflow")


def _found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def main() -> None:
    """Run the sweep files named on the command line."""
    missing = [package for package in PACKAGES if not _found(package)]
    if missing:
        python = ROOT / ".venv" / "bin" / "python"
        if not python.exists() or Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():
            sys.stderr.write(f"missing packages: {', '.join(missing)}; run `make setup` in {ROOT}\n")
            sys.exit(2)
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    sys.path.insert(0, str(ROOT))
    from experiments.cli import main as smaug

    smaug(["run", *sys.argv[1:]])


if __name__ == "__main__":
    main()
