"""Faults in the stages of whole runs: every process that has `Faults.environment` meets them, whatever engine it is of.

A folder on PYTHONPATH holds a `sitecustomize.py`, which Python imports by itself, and `fault.json`, which says what
goes wrong; without the latter nothing does.
"""

import json
from pathlib import Path
from typing import Any

HOOK = """
import importlib.abc, importlib.util, json, os, sys, time
from pathlib import Path

HERE = Path(__file__).parent


class Wrapper(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "smaug_core.stages":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.run = faulty(module.run)

        spec.loader.exec_module = exec_module
        return spec


def faulty(run):
    def run_or_fail(kind, settings, **given):
        told = HERE / "fault.json"
        if told.exists() and kind == "pretrain":
            meet(json.loads(told.read_text()), given.get("recompute_layers", False))
        return run(kind, settings, **given)

    return run_or_fail


def meet(fault, recomputed):
    if fault["what"] == "error":
        comers = len([name for name in os.listdir(HERE) if name.startswith("comer-")])
        (HERE / f"comer-{comers}").touch()
        if comers < fault["comers"]:
            raise KeyError(f"told to fail, for the {comers}th time")
        time.sleep(3)
    if fault["what"] == "gpu memory" and not (recomputed and fault["until_recomputed"]):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")


sys.meta_path.insert(0, Wrapper())
"""


class Faults:
    """Faults of pre-trainings, as a test sets them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(HOOK)
        self.environment = {"PYTHONPATH": str(folder)}
        self._told = folder / "fault.json"

    def set(self, what: str, **more: Any) -> None:
        """`error`: the first `comers` raise the same, others take 3 s. `gpu memory`: all, or `until_recomputed`."""
        self._told.write_text(json.dumps({"what": what, **more}))

    def mend(self) -> None:
        """Nothing goes wrong any more."""
        self._told.unlink()
