"""Active drivers of a home folder, each with a file that lists its stages, and requests to cancel stages."""

import getpass
import os
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.background import BackgroundThread
from experiments.store.documents import RENAME, Shape, StoreError, read_document, unwritable, write_json
from experiments.store.process import HEARTBEAT_S, ProcessIdentity, is_alive, this_process
from smaug_core.files import TIME, StoredDocument, key


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverDocument(StoredDocument):
    """A file of the folder `drivers`: an active driver and its stages."""

    owner: ProcessIdentity = key(ProcessIdentity.form(), document=ProcessIdentity)
    time: float = key(TIME)
    fingerprints: list[str] = key([str])


DRIVER = Shape(DriverDocument.form(), f"{RENAME}a driver that lives writes it again within 15 s", DriverDocument.of)


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver:
    """A process that runs sweeps."""

    path: Path
    owner: ProcessIdentity
    started: float
    """Seconds since 1970."""
    fingerprints: frozenset[str]
    """The stages it looks after: those it runs, waits for, or has done."""


@contextmanager
def driver_at_work(home: Path, fingerprints: Iterable[str] = ()) -> Iterator[None]:
    """List this process as the driver of these stages while the context lasts; a thread writes heartbeats.

    Raises:
        StoreError: it cannot be written.
    """
    # The last part keeps a file from being taken for that of an earlier process with the same number.
    owner, name = this_process(), f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.json"
    path = home / "drivers" / name
    document = {"owner": owner.raw, "time": time.time(), "fingerprints": sorted(set(fingerprints))}

    def beat() -> bool:
        # A disk that is full or away must not end a driver; the next heartbeat may be written again.
        with suppress(OSError, StoreError):
            if path.exists():
                os.utime(path)
            else:  # another host, which saw no heartbeat, considered this driver dead
                write_json(path, document)
        return True

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_json(path, document)
    try:
        with BackgroundThread(beat, HEARTBEAT_S, "driver's heartbeat"):
            yield
    finally:
        with suppress(OSError):  # as if it had been killed: the file is that of a process that is gone
            path.unlink()


def abandoned(home: Path, names: Collection[str]) -> list[str]:
    """Return the stages among some that no active driver but this process looks after.

    Raises:
        StoreError: a driver's file holds something else.
    """
    here = this_process()
    me = (here.host, here.boot, here.pid)
    others = [driver for driver in living(home) if (driver.owner.host, driver.owner.boot, driver.owner.pid) != me]
    return [name for name in names if not any(name in driver.fingerprints for driver in others)]


def living(home: Path) -> list[Driver]:
    """Return the active drivers of a home folder; files of dead ones are removed.

    Raises:
        StoreError: a driver's file holds something else.
    """
    found = []
    for path in sorted((home / "drivers").glob("[!.]*.json")):
        document = read_document(path, DRIVER)
        try:
            last_sign = path.stat().st_mtime
        except FileNotFoundError:
            continue  # it has just ended
        if document is None:
            continue
        if is_alive(document.owner, last_sign):
            fingerprints = frozenset(document.fingerprints)
            found.append(Driver(path=path, owner=document.owner, started=document.time, fingerprints=fingerprints))
        else:
            with suppress(OSError):  # a folder that may only be read is no fault of the question
                path.unlink(missing_ok=True)
    return found


def request_cancel(home: Path, fingerprints: Iterable[str]) -> None:
    """Request that the drivers of these stages end them: a file `cancel/<fingerprint>` for each; idempotent.

    Raises:
        StoreError: it cannot be written.
    """
    folder = home / "cancel"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    who = {"user": _user(), "time": time.time(), **this_process().raw}
    for fingerprint in fingerprints:
        write_json(folder / fingerprint, who)


def cancel_requests(home: Path) -> dict[str, float]:
    """Time of each open cancel request, by fingerprint; cheap enough to poll every second."""
    try:
        with os.scandir(home / "cancel") as entries:
            return {entry.name: entry.stat().st_mtime for entry in entries if not entry.name.startswith(".")}
    except FileNotFoundError:  # no request yet, or one was settled meanwhile: the next poll sees it
        return {}


def settle_cancel(home: Path, fingerprint: str) -> None:
    """Remove the cancel request of a stage that has ended, or is to run again.

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
