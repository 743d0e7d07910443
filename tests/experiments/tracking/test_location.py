"""What file system a path is on, from the text of /proc/mounts."""

from pathlib import Path

import pytest

from experiments.tracking.location import file_system_of, parse_mounts, read_mounts, tracking_problem

MOUNTS = parse_mounts(
    r"""/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
filer:/export/home /home nfs4 rw,vers=4.2,addr=10.0.0.1 0 0
/dev/sdb1 /home/local xfs rw 0 0
beegfs_nodev /scratch/my\040group beegfs rw 0 0
overlay /old ext4 rw 0 0
server:/vol /old nfs rw 0 0
me@host:/data /mnt/far fuse.sshfs rw 0 0
"""
)


@pytest.mark.parametrize(
    ("path", "type_", "network"),
    [
        ("/tmp/x", "ext4", False),
        ("/home/ann/.smaug", "nfs4", True),
        ("/home", "nfs4", True),
        ("/homestead/x", "ext4", False),
        ("/home/local/x/y", "xfs", False),
        ("/scratch/my group/.smaug", "beegfs", True),
        ("/scratch/my", "ext4", False),
        ("/old/x", "nfs", True),
        ("/mnt/far", "fuse.sshfs", True),
    ],
)
def test_the_longest_and_last_mount_point_above_a_path_holds_it(path, type_, network):
    found = file_system_of(Path(path), MOUNTS)
    assert found is not None and (found.type, found.is_network) == (type_, network)


@pytest.mark.parametrize("type_", ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "fuse.sshfs", "ceph"])
def test_network_file_systems_are_known(type_):
    assert parse_mounts(f"a /b {type_} rw 0 0")[0].is_network


@pytest.mark.parametrize("type_", ["ext4", "xfs", "tmpfs", "overlay", "btrfs", "zfs", "nfsd", "fuse.lxcfs", "9p"])
def test_local_file_systems_are_told_from_them(type_):
    assert not parse_mounts(f"a /b {type_} rw 0 0")[0].is_network


def test_the_root_of_this_machine_is_on_a_file_system():
    if read_mounts():
        assert file_system_of(Path("/"), read_mounts()) is not None


def test_a_database_on_a_network_file_system_is_refused_with_two_ways_out(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    problem = tracking_problem(Path("/home/ann/.smaug"), MOUNTS)
    assert problem is not None
    assert problem.startswith("/home/ann/.smaug/mlflow.db: is a database on a network file system (nfs4 at /home)")
    assert "MLFLOW_TRACKING_URI=http://" in problem and "sqlite:////" in problem
    assert tracking_problem(Path("/tmp/.smaug"), MOUNTS) is None
    assert tracking_problem(Path("/home/ann/.smaug"), []) is None


@pytest.mark.parametrize(
    ("uri", "refused"),
    [
        ("http://127.0.0.1:5000", False),
        ("postgresql://db/mlflow", False),
        ("sqlite:////tmp/mlflow.db", False),
        ("sqlite:////home/ann/mlflow.db", True),
        ("sqlite:////home/ann/mlflow.db?timeout=60", True),
    ],
)
def test_what_counts_is_where_mlflow_would_write(monkeypatch, uri, refused):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert (tracking_problem(Path("/home/ann/.smaug"), MOUNTS) is not None) == refused
    assert (tracking_problem(Path("/tmp/.smaug"), MOUNTS) is not None) == refused
