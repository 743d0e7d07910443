"""Files of a report: whole or not there."""

from pathlib import Path

from reports.published import ReportError


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
        raise ReportError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    return path
