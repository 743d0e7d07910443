"""Errors that a user can cause; each message names the place, the wrong value and what is expected."""


class SmaugError(Exception):
    """A mistake in the input; shown without a traceback, exit code 2."""


class SettingsError(SmaugError):
    """Settings with values that are not allowed: all of them, each with its name and what is expected."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        """Take pairs of a setting's name and its fault."""
        super().__init__("; ".join(f"{name}: {what}" for name, what in faults))
        self.faults = faults

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[list[tuple[str, str]]]]:
        """Processes that share a training send each other the error that one of them met."""
        return type(self), (self.faults,)


class ClipError(SmaugError):
    """A media file that cannot be read; the message names it."""


class MissingClipError(ClipError):
    """A media file that is not there; the message names it."""


class CheckpointError(SmaugError):
    """Weights that are incomplete, damaged, or made for another configuration."""


class DivergedError(SmaugError):
    """A loss that is no longer a finite number; a result of its settings, so a retry would not help."""
