"""The errors a user can cause; each message says where, what is wrong with its value, what would be right."""


class SmaugError(Exception):
    """A mistake in the input; shown without a traceback, exit code 2."""


class ClipError(SmaugError):
    """A media file that cannot be read; the message names it."""


class CheckpointError(SmaugError):
    """Weights that are incomplete, damaged, or made for another configuration."""


class DivergedError(SmaugError):
    """A loss that is no longer a finite number; a result of its settings, so a retry would not help."""
