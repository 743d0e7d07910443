"""Whether files hold what they were recorded with: what `smaug doctor --deep` reads whole."""

import re
from collections.abc import Callable, Iterator
from hashlib import file_digest
from pathlib import Path

from experiments.maintenance.doctor.finding import Finding, fault, fine
from experiments.stages.stage import digest
from experiments.store.attempt import read_attempts
from experiments.store.documents import KEPT, RANKS, StoreError, read_document
from experiments.store.store import do_again, read_curve, read_result
from experiments.store.trials import trial_documents


def check_contents(home: Path) -> Iterator[Finding]:
    """Every published file and every checkpoint against its digest, weights' headers, ranks, curves and trials."""
    count, wrong = 0, []
    for folder in sorted((home / "store").glob("*/*")):
        if not re.fullmatch(r"[0-9a-f]{12}", folder.name):
            continue
        for check, path, fix in _files(folder):
            count += 1
            if (what := check(path)) is not None:
                wrong.append(fault(f"contents {path.relative_to(home / 'store')}", what, fix))
    wrong += list(_trial_findings(home))
    yield from wrong
    if not wrong:
        yield fine("contents", f"{count} files in {home} hold what they were recorded with")


def _files(folder: Path) -> Iterator[tuple[Callable[[Path], str | None], Path, str]]:
    """Each file of a stage that is to be read: how, and what to do where it is damaged.

    Folders with a damaged document are named by `doctor` in any case.
    """
    try:
        result = read_result(folder)
    except StoreError:
        return
    for name, recorded in ({} if result is None else result.files).items():
        yield _Digest(recorded), folder / name, do_again(folder)
    for state in sorted(folder.glob("checkpoints/step-*/state.json")):
        older = f"rename {state.parent} to {state.parent.name}.damaged; the next run goes on from the one before"
        yield _kept_fault, state, older
    yield _curve_fault, folder, "as it says; the result does not depend on the curve"


class _Digest:
    """Compares a file with a SHA-256, and reads ranks and the header of weights."""

    def __init__(self, recorded: str) -> None:
        self._recorded = recorded

    def __call__(self, path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                found = file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror})"
        if found != self._recorded:
            return f"{path}: was changed: expected SHA-256 {self._recorded[:12]}..., got {found[:12]}..."
        if path.name == "ranks.json":
            return _ranks_fault(path)
        return _header_fault(path) if path.suffix == ".safetensors" else None


def _header_fault(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return None if list(tensors.keys()) else f"{path}: holds no tensor"
    except (OSError, SafetensorError) as error:
        return f"{path}: is no safetensors file ({error})"


def _ranks_fault(path: Path) -> str | None:
    try:
        read_document(path, RANKS)
    except StoreError as error:
        return error.what
    return None


def _kept_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, by its state.json."""
    try:
        state = read_document(path, KEPT)
    except StoreError as error:
        return error.what
    recorded = {} if state is None else state["sha256"]
    faults = (_Digest(sha256)(path.parent / name) for name, sha256 in recorded.items())
    return next((what for what in faults if what is not None), None)


def _curve_fault(folder: Path) -> str | None:
    try:
        read_attempts(folder)
    except StoreError:
        return None  # reported by `doctor` in any case
    try:
        read_curve(folder)
    except StoreError as error:
        return str(error)
    return None


def _trial_findings(home: Path) -> Iterator[Finding]:
    try:
        documents = trial_documents(home)
    except StoreError:
        return  # reported by `doctor` in any case
    for document in documents:
        if digest([stage.fingerprint for stage in document.stages]) != document.fingerprint:
            name = f"{document.sweep}, {document.variant}, seed {document.seed}"
            what = "was changed: its stages are those of another trial"
            yield fault(f"contents trial {name}", what, "give the command of its sweep again, which writes it again")
