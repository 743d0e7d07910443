"""Location of MLflow's records, and whether MLflow may write there: not on a file system shared over a network."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from experiments.tracking.database import DATABASE, database_file, sqlite_uri

NETWORK = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs(_\w+)?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|pvfs2|orangefs|panfs|wekafs|quobyte|9pnet"
    r"|fuse\.(sshfs|glusterfs|ceph|ceph-fuse|s3fs|rclone|gcsfuse|juicefs|beegfs|lizardfs|mfs|quobyte|smbnetfs|davfs)"
    r"|davfs"
)
"""Types in /proc/mounts of file systems that several machines share."""
MOUNTS = Path("/proc/mounts")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system."""

    mount_point: Path
    type: str
    """As the kernel names it, e.g. `ext4` or `nfs4`."""

    @property
    def is_network(self) -> bool:
        """True if other machines may write to it at the same time."""
        return NETWORK.fullmatch(self.type) is not None


def parse_mounts(text: str) -> list[FileSystem]:
    """Return the file systems in the text of /proc/mounts, in its order; a later one covers an earlier one.

    Source: fstab(5); space, tab, line feed and backslash in a path stand there as three octal digits.
    """
    found = []
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 3:
            path = re.sub(r"\\([0-7]{3})", lambda made: chr(int(made[1], 8)), fields[1])
            found.append(FileSystem(Path(path), fields[2]))
    return found


def file_system_of(path: Path, mounts: list[FileSystem]) -> FileSystem | None:
    """Return the file system of an absolute path without links, whether or not it exists; None if unknown."""
    found: FileSystem | None = None
    for mount in mounts:
        holds = mount.mount_point in (path, *path.parents)
        if holds and (found is None or len(mount.mount_point.parts) >= len(found.mount_point.parts)):
            found = mount
    return found


def read_mounts() -> list[FileSystem]:
    """Return the mounted file systems; none on systems other than Linux."""
    try:
        return parse_mounts(MOUNTS.read_text(errors="surrogateescape"))
    except OSError:
        return []


def tracking_uri(home: Path) -> str:
    """Address of MLflow's records: MLFLOW_TRACKING_URI, else a database in the home folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(home.resolve() / DATABASE)


def tracking_problem(home: Path, mounts: list[FileSystem] | None = None) -> str | None:
    """Reason why MLflow must not write to its location; None if it may.

    SQLite relies on locks that network file systems do not keep: a database there is damaged sooner or later.

    Args:
        home: the home folder.
        mounts: what is mounted; read from the system if not given.
    """
    file = database_file(tracking_uri(home))
    if file is None:
        return None
    under = file_system_of(file, read_mounts() if mounts is None else mounts)
    if under is None or not under.is_network:
        return None
    return (
        f"{file}: is a database on a network file system ({under.type} at {under.mount_point}), where SQLite gets"
        " damaged; expected MLFLOW_TRACKING_URI=http://... of an MLflow server, or"
        " MLFLOW_TRACKING_URI=sqlite:////... on a local disk (`smaug sync` fills either from this home)"
    )
