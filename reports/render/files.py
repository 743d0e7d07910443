"""Files of a report: whole or not there."""

import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from reports.paper.tables import ReportError


def write_text(path: Path, text: str) -> Path:
    """Write a file by rename, its folder with it; give its path.

    Raises:
        ReportError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ReportError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    return path


def file_name(name: str) -> str:
    """A name as part of a file's: itself if it is plain, else what is plain of it and a digest of all."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    return name if plain == name else f"{plain}-{sha256(name.encode()).hexdigest()[:6]}"
