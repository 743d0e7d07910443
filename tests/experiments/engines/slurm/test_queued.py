"""Stages whose jobs wait in Slurm, as `status` tells them."""

import io
import os
from pathlib import Path

import pytest

from experiments.cli import status_view as overview
from experiments.console import Console
from experiments.engines.slurm.submissions import exit_file
from experiments.maintenance.status import HomeStatus, Observer
from experiments.store.documents import write_json
from experiments.store.drivers import driver_at_work
from experiments.store.trials import write_trial
from tests.experiments.made_trials import trial

PENDING, ENDED = "7_1|PENDING|Resources", "7_1|CANCELLED|None"
CONFIG = "ClusterName             = here\nSlurmctldHost[0]        = head\n"


def submitted(home: Path, slurm: str = "here@head") -> Path:
    """A home with a trial whose first stage a driver that is gone submitted as job 7_1."""
    made = trial()
    write_trial(home, made)
    folder = home / "slurm" / "profile-20261125-010203-0123abcd"
    (folder / "jobs").mkdir(parents=True)
    (folder / "ended").mkdir()
    write_json(folder / "slurm.json", {"slurm": slurm, "jobs": "smaug-1"})
    write_json(folder / "placed-1.json", {made.stages[0].fingerprint: "7_1"})
    return folder


def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, squeue: str | None) -> Path:
    """Slurm's commands, squeue with an answer; none of them at all where that is none. Gives the log of questions."""
    commands = tmp_path / "commands"
    commands.mkdir()
    log = tmp_path / "asked"
    if squeue is not None:
        for name, told in (("scontrol", CONFIG), ("squeue", squeue)):
            (commands / name).write_text(f"#!/bin/sh\necho {name} >>{log}\nprintf '%s\\n' '{told}'\n")
            (commands / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    else:
        monkeypatch.setenv("PATH", str(commands))
    return log


def look(home: Path) -> tuple[HomeStatus, str]:
    standing = Observer(home).poll()
    return standing, shown(standing)


def shown(standing: HomeStatus) -> str:
    text = io.StringIO()
    overview.show(standing, Console(file=text), Path("home"))
    return text.getvalue()


def test_a_job_that_waits_in_slurm_is_told_and_waited_for(tmp_path, monkeypatch):
    log = slurm(tmp_path, monkeypatch, PENDING)
    submitted(tmp_path)
    observer = Observer(tmp_path)
    for _ in range(3):
        standing = observer.poll()
    assert log.read_text().split() == ["scontrol", "squeue"]  # once, however often it is looked at
    assert "pretrain queued in Slurm (job 7_1: Resources)  finetune.msrvtt new" in shown(standing)
    assert standing.is_active and standing.trials[0].state == "waiting"
    assert standing.trials[0].to_json()["detail"]["pretrain"]["queued"] == "queued in Slurm (job 7_1: Resources)"


@pytest.mark.parametrize("answer", [ENDED, ""])
def test_a_job_that_is_over_is_not(tmp_path, monkeypatch, answer):
    slurm(tmp_path, monkeypatch, answer)
    submitted(tmp_path)
    standing, text = look(tmp_path)
    assert "Slurm" not in text and not standing.is_active and standing.trials[0].state == "new"


def test_it_is_told_while_a_driver_lives_too_but_only_if_slurm_knows_it(tmp_path, monkeypatch):
    slurm(tmp_path, monkeypatch, PENDING)
    submitted(tmp_path)
    with driver_at_work(tmp_path, [trial().stages[0].fingerprint]):
        assert "pretrain queued in Slurm (job 7_1: Resources)" in look(tmp_path)[1]
        monkeypatch.setenv("PATH", "")
        assert "Slurm" not in look(tmp_path)[1]


def test_without_slurm_the_note_is_told_and_nobody_waits(tmp_path, monkeypatch):
    slurm(tmp_path, monkeypatch, None)
    submitted(tmp_path)
    standing, text = look(tmp_path)
    assert "pretrain submitted to Slurm as job 7_1; no Slurm here to ask" in text
    assert not standing.is_active and standing.trials[0].state == "new"


def test_another_slurm_is_not_asked_about_the_job(tmp_path, monkeypatch):
    log = slurm(tmp_path, monkeypatch, PENDING)
    submitted(tmp_path, slurm="there@head")
    assert "submitted to Slurm as job 7_1; the Slurm here is here@head" in look(tmp_path)[1]
    assert log.read_text().split() == ["scontrol"]


def test_a_job_that_said_its_last_word_is_not_asked_about(tmp_path, monkeypatch):
    log = slurm(tmp_path, monkeypatch, PENDING)
    folder = submitted(tmp_path)
    name = trial().stages[0].fingerprint
    write_json(exit_file(folder, "7_1", name), {"exit_code": 0})
    assert "Slurm" not in look(tmp_path)[1] and not log.exists()
