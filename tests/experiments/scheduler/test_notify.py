"""Notifications: a real command, what it is given, and what becomes of one that fails, hangs or is not there."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.planning.budget import Budget
from experiments.planning.cost_model import Prices
from experiments.run import end_of
from experiments.scheduler.events import Event, Summary
from experiments.scheduler.notify import Notifier, command_of, user_settings
from experiments.store.attempt import NOTHING_SPENT, claim
from experiments.store.store import Store
from smaug_core.errors import SmaugError
from tests.experiments.finished import HOST
from tests.experiments.smoke import Smoke
from tests.quick_stage import quick_stage

SCRIPT = """
import json, pathlib, sys
heard, told = pathlib.Path(sys.argv[1]), json.loads(sys.stdin.read())
with heard.open("a") as file:
    file.write(json.dumps({"arguments": sys.argv[2:], **told}) + "\\n")
"""


@pytest.fixture
def script(tmp_path: Path) -> list[str]:
    """A command that keeps what it hears in the file `heard`; its last argument tries a shell."""
    path = tmp_path / "tell me.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path), str(tmp_path / "heard"), "$(touch shell); *"]


def heard(folder: Path) -> list[dict[str, Any]]:
    path = folder / "heard"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_command_gets_arguments_and_json_and_no_shell(
    tmp_path: Path, script: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    complaints: list[str] = []
    with Notifier(script, {"sweeps": ["a"], "scale": "tiny"}, complaints.append) as notifier:
        notifier.send("end", "the run ended", complete=True)
    (told,) = heard(tmp_path)
    assert told.items() >= {"event": "end", "message": "the run ended", "complete": True, "sweeps": ["a"]}.items()
    assert told["arguments"] == ["$(touch shell); *"] and not (tmp_path / "shell").exists()
    assert complaints == []


def test_most_of_a_budget_and_a_pause_are_told_once(tmp_path: Path, script: list[str]) -> None:
    with Notifier(script, {}, print) as notifier:
        for spent, limit in ((7.9, 10.0), (99.0, None), (8.0, 10.0), (9.0, 10.0)):
            notifier.budget(spent, limit)
        for kind in ("done", "failed", "retry"):
            notifier(Event(kind=kind, stage=quick_stage(), message="no news"))  # type: ignore[arg-type]
        notifier(Event(kind="paused", stage=quick_stage(), message="two stages failed of the same"))
    told = {each["event"]: each for each in heard(tmp_path)}
    assert len(heard(tmp_path)) == 2 and told.keys() == {"budget", "paused"}
    assert told["budget"]["message"] == "8 of 10 device hours are spent"
    assert (told["budget"]["spent_hours"], told["budget"]["limit_hours"]) == (8.0, 10.0)
    assert told["paused"]["message"] == "two stages failed of the same"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SmaugError("no room"), "the run ended with an error: no room"),
        (MemoryError(), "the run ended with an error: MemoryError"),
        (KeyboardInterrupt(), "the run was stopped, and did not wait for what runs"),
    ],
)
def test_a_run_that_ends_with_an_error_is_told(
    tmp_path: Path, script: list[str], error: BaseException, message: str
) -> None:
    with pytest.raises(type(error)), Notifier(script, {}, print):
        raise error
    (told,) = heard(tmp_path)
    assert (told["event"], told["message"], told["complete"]) == ("end", message, False)


def test_a_stop_is_told_as_one_whatever_was_done() -> None:
    went_on = "the same command continues"
    assert end_of(Summary(interrupted=True)) == f"the run was stopped; {went_on}: nothing was done"
    stopped = Summary(done=[quick_stage()], paused="of the same", interrupted=True)
    assert end_of(stopped) == f"the run was stopped; {went_on}: 1 done"
    assert end_of(Summary(paused="of the same")) == "the run ended, paused: nothing was done"
    assert end_of(Summary(done=[quick_stage()])) == "the run ended, complete: 1 done"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["/nowhere/mail"], "notify: /nowhere/mail: cannot be run (No such file or directory)"),
        (["sh", "-c", "echo no mail >&2; exit 3"], "ended with 3 (no mail)"),
        (["sh", "-c", "echo two >&2; echo lines >&2; kill -9 $$"], "was killed by signal 9 (two; lines)"),
        (["a\0b"], "cannot be run (embedded null byte)"),
        (["sh", "-c", "sleep 60 & sleep 60"], "was ended after 0.5 s"),
        (["true"], None),  # does not read what it is given
    ],
)
def test_a_command_that_fails_is_told_and_harms_nothing(command: list[str], told: str | None) -> None:
    complaints: list[str] = []
    started = time.monotonic()
    with Notifier(command, {"much": "x" * 200_000}, complaints.append, timeout_s=0.5) as notifier:
        notifier.send("end", "the run ended")
    assert time.monotonic() - started < 30
    assert len(complaints) == (told is not None) and all(text.endswith(told or "") for text in complaints)


def test_moments_are_told_in_their_order(tmp_path: Path) -> None:
    command = ["sh", "-c", f"read told; case $told in *paused*) sleep 1;; esac; echo \"$told\" >> '{tmp_path}/heard'"]
    with Notifier(command, {}, print) as notifier:
        notifier.send("paused", "which takes longer to be told")
        notifier.send("end", "the run ended")
    assert [told["event"] for told in heard(tmp_path)] == ["paused", "end"]


def test_what_hangs_holds_the_runs_end_but_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.scheduler.notify.LEAST_S", 0.2)
    complaints: list[str] = []
    with Notifier(["sleep", "60"], {}, complaints.append, timeout_s=1.0) as notifier:
        notifier.send("paused", "which hangs")
        notifier.send("end", "the run ended")
    assert complaints == [f"notify: sleep 60: was ended after {seconds} s" for seconds in (1, 0.2)]


def test_ctrl_c_gives_up_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.scheduler.notify.UNTOLD_S", 0.1)
    complaints: list[str] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with Notifier(["sleep", "60"], {}, complaints.append) as notifier:
            notifier.send("paused", "which hangs")
            notifier.send("end", "the run ended, and nobody is to wait for this either")
            threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    finally:
        signal.signal(signal.SIGINT, before)
    assert complaints == [
        f"notify: sleep 60: {how}" for how in ("is waited for; Ctrl-C ends it", "was ended, as asked")
    ]
    assert not [child for child in psutil.Process().children() if child.name() == "sleep"]


def test_what_may_not_be_ended_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As what sudo runs; root, as whom these tests may run, may end everything."""

    def refuse(group: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)
    complaints: list[str] = []
    with Notifier(["sleep", "60"], {}, complaints.append, timeout_s=0.5) as notifier:
        notifier.send("end", "the run ended")
    assert complaints == ["notify: sleep 60: still runs after 0.5 s, and may not be ended by this user"]
    (left,) = [child for child in psutil.Process().children() if child.name() == "sleep"]
    left.kill()


def test_what_a_command_leaves_behind_does_not_hold_the_runs_end(tmp_path: Path) -> None:
    command = ["sh", "-c", f"sleep 60 & echo $! > '{tmp_path}/pid'; echo no mail >&2; exit 3"]
    complaints: list[str] = []
    with Notifier(command, {}, complaints.append) as notifier:
        notifier.send("end", "the run ended")
    left = psutil.Process(int((tmp_path / "pid").read_text()))
    assert complaints[0].endswith("ended with 3 (no mail)"), "it was not ended for taking too long"
    left.kill()


def test_a_command_that_is_ended_leaves_no_process(tmp_path: Path) -> None:
    command = ["sh", "-c", f"sleep 60 & echo $! > '{tmp_path}/pid'; wait"]
    with Notifier(command, {}, print, timeout_s=1.0) as notifier:
        notifier.send("end", "the run ended")
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "it outlives the command"
        time.sleep(0.05)


def test_the_command_comes_from_the_option_or_the_users_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    settings = user_settings()
    assert settings == tmp_path / "smaug" / "config.yaml"
    assert command_of(None, settings) == ()
    settings.parent.mkdir()
    settings.write_text("notify: mail -s 'it ended' me\n")
    assert command_of(None, settings) == ("mail", "-s", "it ended", "me")
    assert command_of("say", settings) == ("say",)
    assert command_of("", settings) == ()
    settings.write_text("notify: [mail, it ended]\n")
    assert command_of(None, settings) == ("mail", "it ended")
    for nothing in ("", "# notify: mail\n", "---\n", "notify:\n", "notify: []\n"):
        settings.write_text(nothing)
        assert command_of(None, settings) == ()
    settings.write_text("- notify\n")
    with pytest.raises(SmaugError, match=r"config.yaml:1:1"):
        command_of(None, settings)
    settings.write_text("notfy: mail\n")
    with pytest.raises(SmaugError, match=r"config.yaml:1:1: key 'notfy' is unknown; did you mean 'notify'\?"):
        command_of(None, settings)
    with pytest.raises(SmaugError, match=r"--notify: \"say 'a\" cannot be taken apart \(No closing quotation\)"):
        command_of("say 'a", settings)


def test_running_stages_count_with_what_they_have_spent(tmp_path: Path) -> None:
    store, stage = Store(tmp_path), quick_stage()
    budget = Budget(store, Prices(store), limit=10.0)
    lease = claim(store.prepare(stage), HOST)
    assert budget.admit(stage) is None and budget.used == 0.0
    lease.heartbeat(NOTHING_SPENT | {"spent_s": 7200.0})
    budget.observe(stage, store.record(stage))
    assert (budget.used, budget.spent) == (2.0, 0.0)
    lease.end("failed", NOTHING_SPENT | {"spent_s": 10800.0}, "as told")
    budget.settle(stage)
    assert (budget.used, budget.spent) == (3.0, 3.0)


@pytest.mark.slow
def test_a_sweep_tells_its_end_by_the_users_own_command(tmp_path: Path, script: list[str]) -> None:
    smoke = Smoke(tmp_path)
    (tmp_path / "smaug").mkdir()
    (tmp_path / "smaug" / "config.yaml").write_text(json.dumps({"notify": script}))
    ran = smoke.sweep("--only", "50%", "--max-hours", "100", XDG_CONFIG_HOME=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    (told,) = heard(tmp_path)
    assert told.items() >= {"event": "end", "complete": True, "sweeps": ["masking_ratio"], "scale": "smoke"}.items()
    assert told["counts"]["done"] == 3 and told["home"] == str(smoke.home)
    again = smoke.sweep("--only", "50%", "--notify", "/nowhere/mail", XDG_CONFIG_HOME=str(tmp_path))
    assert again.returncode == 0 and "cannot be run (No such file or directory)" in again.stdout
