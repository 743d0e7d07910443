"""`smaug ui`: it says its address when it answers there, refuses a port that is taken, and leaves no process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from experiments.store.trials import write_trial
from experiments.tracking import ui
from experiments.tracking.reader import MlflowReader
from experiments.tracking.sync import sync
from tests.experiments.made_trials import execute, trial
from tests.mlflow_servers import free_port

ROOT = Path(__file__).resolve().parents[3]


def started(home: Path, port: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "experiments.cli", "ui", "--port", str(port), "--home", str(home)]
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        command, cwd=ROOT, env=kept, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=20)[1]


def test_the_address_of_a_copied_home_is_said_when_it_answers_and_ctrl_c_leaves_no_process(new_home, tmp_path, smaug):
    original, made = new_home("original"), trial()
    write_trial(original, made)
    execute(original, made)
    sync(original)
    home, port = tmp_path / "a b?c%20d#e", free_port()
    original.rename(home)
    server = started(home, port)
    try:
        assert server.stdout.readline() == f"http://127.0.0.1:{port} (Ctrl-C ends it)\n", server.stderr.read()
        children = psutil.Process(server.pid).children(recursive=True)
        assert get(f"http://127.0.0.1:{port}/health") == b"OK"
        (listening,) = [c for p in children for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert listening.laddr == ("127.0.0.1", port)
        (stage, *_) = MlflowReader(home).stages()
        held = get(f"http://127.0.0.1:{port}/get-artifact?path=attempts.json&run_uuid={stage.run_id}")
        assert [attempt["state"] for attempt in json.loads(held)["attempts"]] == ["done"]
        since = time.monotonic()
        code, out, err = smaug("ui", "--port", str(port))
        assert (code, out) == (2, "") and "another process uses it" in err and time.monotonic() - since < 2
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
        assert (server.returncode, out) == (0, "") and "Traceback" not in err
        assert err.splitlines()[0].startswith(f"{home}/mlflow.db: was moved or copied; ")
        assert gone(children)
    finally:
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_it_alone_ends_its_server(new_home, by):
    server = started(new_home("home"), free_port())
    assert "Ctrl-C ends it" in server.stdout.readline()
    children = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(by)
    assert server.wait(timeout=60) == (0 if by == signal.SIGTERM else -by)
    assert gone(children)


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, ""), (socket.AF_INET6, "::")]
)
def test_a_port_that_is_taken_by_anything_is_refused_at_once(smaug, tmp_path, family, address):
    with socket.socket(family) as other:
        try:
            other.bind((address, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        other.listen()
        port = other.getsockname()[1]
        since = time.monotonic()
        code, out, err = smaug("ui", "--port", str(port))
    assert (code, out) == (2, "") and time.monotonic() - since < 2
    assert err == f"--port {port}: cannot be served on (another process uses it); expected a free port\n"
    assert not (tmp_path / "mlflow.db").exists()


def test_a_home_that_does_not_exist_is_refused_and_not_made(smaug, tmp_path):
    code, out, err = smaug("ui", "--port", str(free_port()), "--home", str(tmp_path / "typo"))
    assert (code, out) == (2, "") and not (tmp_path / "typo").exists()
    assert err == f"--home {tmp_path}/typo: does not exist, so nothing was run yet in it; expected the home of a run\n"


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999", "x"])
def test_a_port_that_is_none_is_refused_without_a_traceback(smaug, port):
    code, out, err = smaug("ui", "--port", port)
    assert (code, out) == (2, "") and "'--port'" in err and "Traceback" not in err


def test_a_server_that_ends_before_it_answers_is_told_with_its_last_line(smaug, home, tmp_path, monkeypatch):
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho starting\necho 'no such [/thing]' >&2\necho\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(ui.sys, "executable", str(program))
    code, out, err = smaug("ui", "--port", str(free_port()))
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "MLflow's server ended by itself with exit code 3: no such [/thing]"


@pytest.mark.slow
def test_a_server_of_somebody_else_that_takes_the_port_meanwhile_is_not_shown(smaug, home, monkeypatch):
    port = free_port()
    other = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], cwd=home)
    monkeypatch.setattr(ui, "_refuse_taken", lambda port: None)
    (home / "health").write_text("OK")
    try:
        code, out, err = smaug("ui", "--port", str(port))
    finally:
        other.kill()
        other.wait()
    assert (code, out) == (1, "") and "ended by itself" in err.splitlines()[-1]
