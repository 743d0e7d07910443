"""Digests of published files and checkpoints: `smaug doctor --deep`, after a copy or a disk's fault."""

from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path

from experiments.maintenance.doctor.finding import Finding, fault, fine
from experiments.store.documents import KEPT, StoreError, read_document
from experiments.store.store import do_again, is_stage_folder, read_result


def check_contents(home: Path) -> Iterator[Finding]:
    """Compare every published file and every checkpoint with the SHA-256 that was recorded with it."""
    store, count, wrong = home / "store", 0, []
    for folder in sorted(filter(is_stage_folder, store.glob("*/*"))):
        try:
            for path, sha256, fix in _recorded(folder):
                count += 1
                if (problem := _difference(path, sha256)) is not None:
                    wrong.append(fault(f"contents {path.relative_to(store)}", f"{path}: {problem}", fix))
        except StoreError as error:
            wrong.append(fault(f"contents {folder.relative_to(store)}", error.what, error.advice))
    yield from wrong or [fine("contents", f"{count} files in {home} hold what they were recorded with")]


def _recorded(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Path, digest and advice of each file of a stage that has a digest."""
    if (result := read_result(folder)) is not None:
        yield from ((folder / name, sha256, do_again(folder)) for name, sha256 in result.files.items())
    for state in sorted(folder.glob("checkpoints/step-*/state.json")):
        fix = f"rename {state.parent} to {state.parent.name}.damaged; the next run goes on from the one before"
        digests: dict[str, str] = (read_document(state, KEPT) or {}).get("sha256", {})
        yield from ((state.parent / name, sha256, fix) for name, sha256 in digests.items())


def _difference(path: Path, sha256: str) -> str | None:
    try:
        with path.open("rb") as file:
            actual = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if actual == sha256 else f"was changed: expected SHA-256 {sha256[:12]}..., got {actual[:12]}..."
