"""Checks of settings, and configurations built from plain values; `smaug_core.config` has the settings themselves."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from smaug_core.errors import SettingsError, SmaugError

T = TypeVar("T")

MOST_WORDS = 512
"""Places in BERT's table of positions."""
KEEP_RATES = "in (0, 1], in steps of 0.0001"

Check = tuple[bool, str, object, str]
"""Whether it holds; the setting; its value; the values that are allowed."""


def require(*checks: Check) -> None:
    """Raise a `SettingsError` with every check that does not hold."""
    errors = [
        (where, f"{value!r} is not allowed; expected {allowed}") for holds, where, value, allowed in checks if not holds
    ]
    if errors:
        raise SettingsError(errors)


def at_least(least: int, where: str, value: int) -> Check:
    """Check that a number is not below `least`."""
    return value >= least, where, value, f"at least {least}"


def multiple_of(config: object, whole: str, part: str) -> Check:
    """Check that a size of the model is a multiple of another one."""
    size, count = getattr(config, whole), getattr(config, part)
    fits = count >= 1 and size >= 1 and size % count == 0
    return fits, f"model.{whole}", size, f"a multiple of model.{part} = {count}"


def text_length_check(where: str, value: int) -> Check:
    """Check the number of caption tokens that are kept."""
    return 3 <= value <= MOST_WORDS, where, value, f"between 3 ([CLS], a word, [SEP]) and {MOST_WORDS}"


def share_checks(where: str, **shares: float) -> list[Check]:
    """Check that each share is in [0, 1)."""
    return [(0 <= share < 1, f"{where}.{name}", share, "in [0, 1)") for name, share in shares.items()]


def clip_checks(where: str, frames: int | None, selected: int | None, *, least: int) -> list[Check]:
    """Check the frames of a clip, and how many of them are selected, where they are given."""
    checks = []
    if frames is not None:
        checks.append(at_least(least, f"{where}.frames", frames))
    if selected is not None:
        most = frames if frames is not None else 0
        allowed = f"between 1 and {where}.frames = {most}" if most else f"used only with {where}.frames"
        checks.append((1 <= selected <= most, f"{where}.selected", selected, allowed))
    return checks


def from_settings(config_class: type[T], settings: Mapping[str, Any], where: str) -> T:
    """Build a configuration from plain values as JSON holds them: lists become tuples, whole numbers floats.

    Raises:
        SmaugError: a name is unknown or missing, or a value is not allowed; the message starts with `where`.
    """
    known = {f.name: f for f in fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(settings.keys() - known.keys())
    required = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(required - settings.keys())
    if unknown or missing:
        raise SmaugError(f"{where}: unknown settings {unknown}, missing settings {missing}; known: {sorted(known)}")
    return config_class(**{name: _typed(known[name].type, value) for name, value in settings.items()})


def _typed(annotation: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and annotation in (float, float | None):
        return float(value)
    return value
