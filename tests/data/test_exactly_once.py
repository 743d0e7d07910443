"""An epoch read by two ranks with two loader processes each, killed in the middle, is that of one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smaug_core.data.prepare.conversion import prepare_split
from smaug_core.data.prepare.source import PrepareRequest, resolve
from smaug_core.distributed import World
from tests.conformance.drivers import wait_until
from tests.data.rank_reader import batches_of, described
from tests.data.sources.made_shards import sample, write_tar

ROOT = Path(__file__).resolve().parents[2]


def start(root: Path, rank: int, folder: Path, *held_at: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.data.rank_reader", str(root), str(rank), "2", str(folder / f"{rank}.txt")]
    command += held_at
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


@pytest.mark.parametrize("num", [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.nightly])])
def test_every_sample_is_read_exactly_once_and_as_one_process_reads_it(tmp_path, num):
    for shard in range(num // 100):
        keys = range(100 * shard, 100 * (shard + 1))
        members = [part for n in keys for part in sample(f"{n:09d}", n, f"a dog number {n}")]
        write_tar(tmp_path / "shards" / f"{shard:05d}.tar", members)
    root = tmp_path / "data"
    prepare_split(*resolve(PrepareRequest("made", tmp_path / "shards", frames="copy"), root), workers=2)
    files = [tmp_path / f"{rank}.txt" for rank in range(2)]
    ranks = [start(root, rank, tmp_path, str(min(num // 60, 500) + 15 * rank)) for rank in range(2)]
    wait_until(lambda: all(file.exists() and file.read_text().count("\n") >= min(num // 60, 500) for file in files))
    for process in ranks:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert all(file.read_text().count("\n") < num // 20 for file in files), "it had ended before it was killed"
    for process in [start(root, rank, tmp_path) for rank in range(2)]:
        assert process.wait(timeout=3600) == 0
    lines = [file.read_text().splitlines() for file in files]
    read = [int(number) for rank in lines for line in rank for number in line.split()[1].split(",")]
    assert len(read) == num and set(read) == set(range(num))
    for rank in range(2):
        batches = batches_of(root, World(rank=rank, size=2))
        assert lines[rank] == [described(batches.use(each)) for each in batches.loader(0, batches.steps_per_epoch)]
