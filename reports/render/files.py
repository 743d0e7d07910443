"""Files of a report, written completely or not at all."""

import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from reports.paper.tables import ReportError


def write_text(path: Path, text: str) -> Path:
    """Write a file by rename, with its folder; return its path.

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
    """Make a part of a file's name from a name: itself if it is plain, else its plain characters and a digest."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
    return name if plain == name else f"{plain}-{sha256(name.encode()).hexdigest()[:6]}"
