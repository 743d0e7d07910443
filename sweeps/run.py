#!/usr/bin/env python3
"""`python sweeps/run.py FILE.yaml`: the same as `smaug run FILE.yaml`, from any folder, with any Python.

A Python that lacks the packages hands over to the one that `make setup` installs them for.
"""

import sys

PACKAGES = ("typer", "pydantic", "ruamel.yaml", "torch", "ray", "mlflow")


def _found(package: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def main() -> None:
    """Run the sweep files named on the command line."""
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this folder: what a user keeps beside the sweeps is no module of the standard library
    import os
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    missing = [package for package in PACKAGES if not _found(package)]
    if missing:
        python = root / ".venv" / "bin" / "python"
        if not python.exists() or Path(sys.prefix).resolve() == (root / ".venv").resolve():
            sys.stderr.write(f"missing packages: {', '.join(missing)}; run `make setup` in {root}\n")
            sys.exit(2)
        os.execv(python, [str(python), __file__, *sys.argv[1:]])
    # After the standard library, which the source tree must not hide, and before any other tree that is installed.
    sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root))
    from experiments.cli.app import main as smaug

    smaug(["run", *sys.argv[1:]])


if __name__ == "__main__":
    main()
