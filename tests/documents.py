"""The JSON documents of a home folder as plain dicts, and documents that tests make."""

import json
from pathlib import Path
from typing import Any, TypeVar

from smaug_core.files import StoredDocument

D = TypeVar("D", bound=StoredDocument)


def read_json(path: Path) -> Any:
    """Read the object that a file holds; None if there is no such file."""
    if not path.exists():
        return None
    value = json.loads(path.read_bytes())
    assert isinstance(value, dict)
    return value


def changed(document: D, keys: dict[str, Any]) -> D:
    """Return the document with other values of some keys."""
    return type(document).of(document.raw | keys)
