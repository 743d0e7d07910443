"""Requests to end stages, as files that a driver looks for: `<home>/cancel/<fingerprint>`."""

import getpass
import os
import time
from collections.abc import Iterable
from pathlib import Path

from experiments.store.attempt import this_process, unwritable, write_json


def ask(home: Path, fingerprints: Iterable[str]) -> None:
    """Ask whoever drives these stages to end them; asking again is the same as once.

    Raises:
        StoreError: it cannot be written.
    """
    folder = home / "cancel"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    who = {"user": _user(), "time": time.time(), **this_process()}
    for fingerprint in fingerprints:
        write_json(folder / fingerprint, who)


def asked(home: Path) -> dict[str, float]:
    """The stages that are asked to end, by fingerprint, with the time of asking; cheap enough for every second."""
    try:
        with os.scandir(home / "cancel") as entries:
            return {entry.name: entry.stat().st_mtime for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError:  # none was ever asked, or one was settled between the two looks: the next look tells
        return {}


def settle(home: Path, fingerprint: str) -> None:
    """Forget that a stage was asked to end: it has ended, or is to run again.

    Raises:
        StoreError: the request cannot be removed.
    """
    path = home / "cancel" / fingerprint
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())
