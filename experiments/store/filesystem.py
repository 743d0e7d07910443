"""Which file system a path is on, and whether it is shared over a network, where SQLite loses data."""

import re
from dataclasses import dataclass
from pathlib import Path

NETWORK = re.compile(
    r"nfs\d?|lustre|gpfs|beegfs(_\w+)?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|pvfs2|orangefs|panfs|wekafs|quobyte|9pnet"
    r"|fuse\.(sshfs|glusterfs|ceph|ceph-fuse|s3fs|rclone|gcsfuse|juicefs|beegfs|lizardfs|mfs|quobyte|smbnetfs|davfs)"
    r"|davfs"
)
"""Types in /proc/mounts of file systems that several machines see."""
MOUNTS = Path("/proc/mounts")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A mounted file system."""

    mount_point: Path
    type: str
    """As the kernel names it, e.g. `ext4` or `nfs4`."""

    @property
    def is_network(self) -> bool:
        """Whether other machines may write to it at the same time."""
        return NETWORK.fullmatch(self.type) is not None


def parse_mounts(text: str) -> list[FileSystem]:
    """The file systems that the text of /proc/mounts tells, in its order; a later one covers an earlier one.

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
    """The file system that an absolute path, without links, is on, whether or not it is there; none if not told."""
    found: FileSystem | None = None
    for mount in mounts:
        holds = mount.mount_point in (path, *path.parents)
        if holds and (found is None or len(mount.mount_point.parts) >= len(found.mount_point.parts)):
            found = mount
    return found


def read_mounts() -> list[FileSystem]:
    """What is mounted here; nothing where the system does not tell (only Linux does)."""
    try:
        return parse_mounts(MOUNTS.read_text(errors="surrogateescape"))
    except OSError:
        return []
