"""Temporary files and folders, renamed when complete: their names, and the cleanup of what dead processes left."""

import os
import platform
import re
import shutil
from hashlib import blake2b
from pathlib import Path

NAME = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})\.(?P<pid>[1-9][0-9]*)\.[0-9a-f]{8}")


def name_aside(name: str) -> str:
    """Unique hidden name for `name` that holds the host and the process writing it."""
    return f".{name}.{_host()}.{os.getpid()}.{os.urandom(4).hex()}"


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files and folders in `folder` of processes of this host that have died.

    Those of living processes, of other hosts (a disk may be shared), and of any other name stay.
    """
    for path in folder.glob(".*"):
        made = NAME.fullmatch(path.name)
        if made and made["host"] == _host() and not _is_alive(int(made["pid"])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _host() -> str:
    """Host and container of this process: process ids mean nothing in another container."""
    processes = Path("/proc/self/ns/pid")
    space = os.readlink(processes) if processes.exists() else ""
    return blake2b(f"{platform.node()}|{space}".encode(), digest_size=4).hexdigest()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process runs, and is another user's
        return True
    return True
