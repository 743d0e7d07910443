"""A home folder of an earlier commit continues: done stages count, a stopped one resumes from its checkpoint."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.experiments.smoke import Smoke
from tests.old_home.make import STOPPED

ARCHIVE = Path(__file__).parents[1] / "old_home" / "home_487da61.tar.gz"
CHECKPOINT_STEP = 14


@pytest.fixture
def old(tmp_path) -> Smoke:
    smoke = Smoke(tmp_path)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(smoke.home, filter="data")
    return smoke


def test_done_stages_of_an_earlier_commit_are_stale_once(old):
    plan = json.loads(old.sweep("--only", "10%", "--json", verb="plan").stdout)
    assert (plan["stages"]["stale"], plan["stages"]["new"]) == (3, 0)
    refused = old.sweep("--only", "10%")
    assert refused.returncode == 2 and "--accept-stale" in refused.stderr
    plan = json.loads(old.sweep(*STOPPED, "--json", verb="plan").stdout)
    assert (plan["stages"]["resume"], plan["stages"]["new"]) == (1, 3)


@pytest.mark.slow
def test_a_home_of_an_earlier_commit_continues(old):
    ended = old.sweep("--only", "10%", "--accept-stale")
    assert ended.returncode == 0, ended.stderr
    assert "0 stages run, 3 done before" in ended.stdout
    ended = old.sweep(*STOPPED)
    assert ended.returncode == 0, ended.stderr
    (curve,) = old.home.glob("store/pretrain/*/attempts/0002/metrics.jsonl")
    first = json.loads(curve.read_text().splitlines()[0])
    assert first["step"] == CHECKPOINT_STEP + 1
