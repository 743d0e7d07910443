"""Singularity's format: a JSON list for each split, with a row for each picture or clip."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smaug_core.data.sources.annotation import Annotation
from smaug_core.errors import SmaugError

FAULTS_NAMED = 10


def file_of(folder: Path, split: str) -> Path:
    """The file of a split."""
    return folder / f"{split}.json"


def read(path: Path, *, is_image: bool, is_paragraph: bool) -> list[Annotation]:
    """Captions of an annotation file, in its order.

    The file is a JSON list of `{"image": path, "caption": text}`, or `"video"` for clips. A caption may be a list of
    texts, and a picture or clip may occur again with another caption. Other keys are ignored.

    Raises:
        SmaugError: the file is missing or no such list; the message lists up to ten wrong rows, counted from 1.

    Source: Singularity (dataset/caption_dataset.py:97-111, 144-149).
    """
    rows = _rows(path)
    kind = "image" if is_image else "video"
    faults = [f"row {number} {what}" for number, row in enumerate(rows, 1) for what in _faults(row, kind)]
    if faults:
        more = f"; and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
        raise SmaugError(f"{path}: {'; '.join(faults[:FAULTS_NAMED])}{more}")
    captions = ((row[kind], sentences) for row in rows for sentences in _captions(row["caption"], is_paragraph))
    return [Annotation(media=media, sentences=sentences) for media, sentences in captions]


def is_of_pictures(path: Path) -> bool:
    """Return whether the first row is of a picture, else of a clip; raises as `read` does if it is of neither."""
    first = _rows(path)[0]
    kinds = [kind for kind in ("image", "video") if isinstance(first, dict) and kind in first]
    if len(kinds) != 1:
        raise SmaugError(f"{path}: row 1 is {_briefly(first)}; it should have 'image' or 'video', and 'caption'")
    return kinds == ["image"]


def _captions(caption: str | list[str], is_paragraph: bool) -> list[tuple[str, ...]]:
    if isinstance(caption, str):
        return [(caption,)]
    return [tuple(caption)] if is_paragraph else [(text,) for text in caption]


def _rows(path: Path) -> list[Any]:
    try:
        rows = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SmaugError(
            f"{path}: no such annotation file; put it there, a JSON list in Singularity's format, and what it names"
            f" into {path.parent.parent / 'media'}"
        ) from error
    except OSError as error:
        raise SmaugError(f"{path}: cannot be read ({error.strerror}); it should be an annotation file") from error
    except (ValueError, RecursionError) as error:
        raise SmaugError(f"{path}: is no JSON ({error}); it should be a list of rows") from error
    if not isinstance(rows, list) or not rows:
        raise SmaugError(f"{path}: holds {_briefly(rows)}; it should hold a list of rows")
    return rows


def _faults(row: Any, kind: str) -> Iterator[str]:
    if not isinstance(row, dict):
        yield f"is {_briefly(row)}; it should have '{kind}' and 'caption'"
        return
    if kind not in row:
        yield f"lacks '{kind}', it has {sorted(row)}"
    elif not _is_inside(row[kind]):
        yield f"'{kind}' is {_briefly(row[kind])}; it should be a path that stays inside the folder of media"
    if "caption" not in row:
        yield f"lacks 'caption', it has {sorted(row)}"
    elif not _is_caption(row["caption"]):
        yield f"'caption' is {_briefly(row['caption'])}; it should be a text, or a list of texts, none of them empty"
    elif "answer" in row and isinstance(row["caption"], list):
        yield (
            f"'caption' holds the {len(row['caption'])} options of a multiple-choice question, whose 'answer' is"
            f" {_briefly(row['answer'])}; expected captions that all fit the {kind}"
        )


def _is_inside(path: Any) -> bool:
    """Return whether `path` is relative and stays below the folder that it is relative to."""
    if not _is_text(path) or "\0" in path:
        return False
    # By hand: a corpus has millions of rows, and pathlib takes microseconds for each.
    parts = set(path.split("/")) - {"", "."}
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _is_caption(caption: Any) -> bool:
    sentences = caption if isinstance(caption, list) else [caption]
    return bool(sentences) and all(_is_text(text) and text.strip() for text in sentences)


def _is_text(value: Any) -> bool:
    """Return whether it is a text that can be written; JSON can hold half of a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _briefly(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
