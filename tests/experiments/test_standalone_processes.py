"""`smaug pretrain`, `finetune` and `evaluate` under torchrun: told once, written once, and ended together."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.experiments.smoke import SCALE
from tests.processes import environment, run_torchrun, torchrun

pytestmark = pytest.mark.slow


class Home:
    """A home folder with the smoke scale, whose batches two processes can share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "smoke.yaml").write_text(SCALE.replace("negatives_group: 16", "negatives_group: 4"))

    def arguments(self, verb: str, out: str, *more: str) -> list[str]:
        return [verb, "--scale", str(self.folder / "smoke.yaml"), "--out", str(self.folder / out), *more]

    def run(self, size: int, verb: str, out: str, *more: str) -> "subprocess.CompletedProcess[str]":
        return run_torchrun(size, self.folder, *self.arguments(verb, out, *more))

    def start(self, size: int, verb: str, out: str, *more: str) -> "subprocess.Popen[str]":
        command = torchrun(size, *self.arguments(verb, out, *more))
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=environment(self.folder), cwd=self.folder
        )

    def read(self, out: str, name: str) -> dict[str, float]:
        return json.loads((self.folder / out / name).read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Home, dict[str, "subprocess.CompletedProcess[str]"]]:
    """A home in which two processes rendered and trained; and one process too."""
    home = Home(tmp_path_factory.mktemp("home"))
    return home, {"two": home.run(2, "pretrain", "two"), "one": home.run(1, "pretrain", "one")}


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_two_processes_train_as_one_does_and_talk_once(trained):
    home, ran = trained
    assert ran["two"].returncode == ran["one"].returncode == 0, ran["two"].stderr
    for name in ("pretrain 4/4", "train.loss"):
        assert len(lines(ran["two"].stdout, name)) == len(lines(ran["one"].stdout, name)) == 1
    two, one = home.read("two", "metrics.json"), home.read("one", "metrics.json")
    assert two["useful_s"] > 0
    del two["useful_s"], one["useful_s"]
    assert two == pytest.approx(one, abs=1e-4)
    weights = [load_file(home.folder / name / "model" / "model.safetensors") for name in ("two", "one")]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-3, name
    assert sorted(path.name for path in (home.folder / "two").iterdir()) == ["metrics.json", "model", "stage.json"]


def test_a_finished_stage_is_told_once(trained):
    home, _ = trained
    again = home.run(2, "pretrain", "two")
    assert again.returncode == 0
    assert again.stdout.count("was done before") == 1 and len(lines(again.stdout, "train.loss")) == 1


def test_what_is_wrong_is_told_once(trained):
    home, _ = trained
    for more, told in (
        (["--seed", "1"], "holds pretrain with another stage.seed: 0, now 1; choose another --out"),
        (["--set", "pretrain.epochs=0"], "pretrain.epochs: 0 is not allowed"),
    ):
        ran = home.run(2, "pretrain", "two", *more)
        assert ran.returncode == 1  # torchrun's, whatever the processes end with
        assert ran.stderr.count(told) == 1, ran.stderr
        assert "exitcode  : 2" in ran.stderr
    ran = home.run(3, "pretrain", "three")
    assert ran.stderr.count("which 3 processes cannot share; expected a number of processes that divides 4") == 1
    assert not list((home.folder / "three").iterdir())  # free for corrected settings


def test_a_chain_of_stages_runs_in_any_number_of_processes(trained):
    home, _ = trained
    for size in (1, 2):
        tuned, tested = f"tuned-{size}", f"tested-{size}"
        ran = home.run(size, "finetune", tuned, "--from", str(home.folder / "two"), "--recompute-layers")
        assert ran.returncode == 0, ran.stderr
        ran = home.run(size, "evaluate", tested, "--from", str(home.folder / "tuned-1"))
        assert ran.returncode == 0, ran.stderr
        assert len(lines(ran.stdout, "t2v.r1 ")) == 1
    one, two = home.read("tuned-1", "metrics.json"), home.read("tuned-2", "metrics.json")
    assert {**one, "useful_s": 0} == pytest.approx({**two, "useful_s": 0}, abs=1e-4)
    assert home.read("tested-1", "metrics.json") == home.read("tested-2", "metrics.json")
    ranks = [(home.folder / name / "ranks.json").read_bytes() for name in ("tested-1", "tested-2")]
    assert ranks[0] == ranks[1]


def workers_of(agent: "subprocess.Popen[str]", out: Path) -> list[psutil.Process]:
    """The processes that train, once they do."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert agent.poll() is None, agent.stderr.read()
        line = agent.stdout.readline()
        if line.startswith("pretrain "):
            children = psutil.Process(agent.pid).children(recursive=True)
            return [child for child in children if str(out) in child.cmdline()]
    raise AssertionError("no step within two minutes")


@pytest.mark.parametrize(
    "to",
    [
        pytest.param("one worker", marks=pytest.mark.nightly),
        pytest.param("torchrun", marks=pytest.mark.nightly),
        "torchrun, Ctrl-C",
    ],
)
def test_a_signal_saves_one_checkpoint_ends_all_and_another_number_goes_on(trained, to):
    home, _ = trained
    out = "stopped-" + to.replace(" ", "-")
    longer = ["--set", "pretrain.epochs=150"]
    agent = home.start(2, "pretrain", out, *longer)
    workers = workers_of(agent, home.folder / out)
    assert len(workers) == 2
    if to == "one worker":
        workers[1].send_signal(signal.SIGTERM)
    else:
        agent.send_signal(signal.SIGINT if "Ctrl-C" in to else signal.SIGTERM)
    stdout, stderr = agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    assert stderr.count("; the same command continues") == 1, stderr
    saved = list((home.folder / out / "checkpoints").iterdir())
    assert len(saved) == 1
    assert not (home.folder / out / "metrics.json").exists()
    step = int(saved[0].name.removeprefix("step-"))
    assert f"stopped after step {step} of 300" in stderr

    agent = home.start(1, "pretrain", out, *longer)
    (worker,) = workers_of(agent, home.folder / out)
    worker.send_signal(signal.SIGTERM)
    _, stderr = agent.communicate(timeout=60)
    assert lines(stderr, "stopped after step ")
    newest = max(path.name for path in (home.folder / out / "checkpoints").iterdir())
    assert int(newest.removeprefix("step-")) > step


@pytest.mark.parametrize("victim", ["worker", "torchrun"])
def test_a_kill_leaves_no_process_behind(trained, victim):
    home, _ = trained
    out = f"killed-{victim}"
    agent = home.start(2, "pretrain", out, "--set", "pretrain.epochs=150")
    workers = workers_of(agent, home.folder / out)
    (psutil.Process(agent.pid) if victim == "torchrun" else workers[0]).kill()
    agent.communicate(timeout=60)
    assert psutil.wait_procs(workers, timeout=30)[1] == []
