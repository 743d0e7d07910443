"""The Ray that we start is ours alone: it listens to this machine only, and asks for a token that no file holds."""

import re
from pathlib import Path

import psutil
import pytest

from experiments.store.store import Store
from tests.conformance.drivers import Driver, Told
from tests.quick_stage import quick_stage

pytestmark = pytest.mark.parametrize("site", ["ray"], indirect=True, scope="module")


def test_only_this_machine_is_listened_to_and_a_token_is_asked_for(store: Store, engine: Driver) -> None:
    stage = quick_stage(hold_at=1)
    listening: list[str] = []
    tokens: set[str] = set()
    commands: list[str] = []

    def look(told: Told) -> None:
        if told.kind != "started":
            return
        driver = psutil.Process(engine.process.pid)
        worker = psutil.Process(told.worker)
        for process in (driver, *driver.children(recursive=True)):
            commands.append(" ".join(process.cmdline()))
            listening.extend(at.laddr.ip for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN)
            if "raylet" in process.name():
                environment = process.environ()
                assert environment["RAY_AUTH_MODE"] == "token"
                tokens.add(environment["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in worker.environ(), "who trains needs none"
        (store.directory(stage) / "go").touch()

    assert engine.run(store, stage, on_event=look).done == [stage]
    assert len(listening) >= 4
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    (token,) = tokens
    assert len(token) == 64
    assert not any(token in command for command in commands)
    (session,) = {match[1] for command in commands if (match := re.search(r"--session-dir=(\S+)", command))}
    for folder in (Path(session), engine.home, store.home):
        for path in folder.rglob("*"):
            assert not path.is_file() or token.encode() not in path.read_bytes(), path
