"""Import path of the Python processes that we start: never the folder that they, or their user, are in."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2]
"""The folder that holds this package."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Variable with which Python puts neither its working directory nor its script's folder on `sys.path`, like `-P`."""


def import_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables for a process that imports this package, and for all processes that it starts in turn.

    A user's own PYTHONPATH stays, with absolute folders: the process may run in another folder. An empty entry, which
    `PYTHONPATH=$PYTHONPATH:/more` leaves behind, means the working directory to Python; it is dropped. The source tree
    goes first on it only where Python does not find this package otherwise, since what else lies in that folder would
    hide modules of the standard library.
    """
    given = [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    ours = [] if _is_installed() else [str(SOURCES)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*ours, *given])), SAFE_PATH: "1"}


def without_safe_path(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for a command of the user's own, whose scripts may import what lies beside them."""
    if sys.flags.safe_path:  # the user asked for it
        return dict(environment)
    return {name: value for name, value in environment.items() if name != SAFE_PATH}


def _is_installed() -> bool:
    """Return whether any process of this Python finds this package, after the standard library on `sys.path`."""
    library = os.path.dirname(os.__file__)
    installed = sys.path[sys.path.index(library) + 1 :] if library in sys.path else []
    found = (finder.find_spec("experiments", installed) for finder in sys.meta_path)
    spec = next((spec for spec in found if spec is not None), None)
    return spec is not None and spec.origin == str(SOURCES / "experiments" / "__init__.py")
