"""Loader processes: the same batches for any number of them, errors at their step, and none left behind."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from experiments.store.failures import Seen, classify
from smaug_core.data.batches import TrainingBatches
from smaug_core.data.loading.loader import Loader, LoaderDiedError
from smaug_core.data.tokenizer import load_tokenizer
from smaug_core.distributed import World
from smaug_core.errors import SmaugError
from tests.conformance.drivers import wait_until
from tests.data.loading.loader_work import fall, leave, odd_fails
from tests.data.test_batches import RECIPE, equal, steps_of
from tests.small import make_items

ROOT = Path(__file__).resolve().parents[3]


def test_each_process_has_one_thread_and_none_of_the_platform():
    """In a process of its own: pytest's fork server holds what earlier tests had it import."""
    found = in_own_process(
        "found = list(Loader(describe, range(6), workers=2))\n"
        "print(len({pid for pid, _, _ in found} - {os.getpid()}), {each[1:] for each in found})"
    )
    assert found == "2 {(1, False)}"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_at_its_request_and_the_next_follows(workers):
    loader = Loader(odd_fails, range(4), workers=workers)
    assert next(loader) == 0
    with pytest.raises(SmaugError, match=r"^number 1: expected an even one$"):
        next(loader)
    assert next(loader) == 2


def test_results_of_loader_processes_count_when_they_are_used():
    with_processes, alone = Loader(sum, [range(10**6)] * 8, workers=1), Loader(sum, [range(10**6)] * 8)
    started = with_processes.cpu_s()
    next(with_processes), next(alone)
    wait_until(lambda: with_processes.cpu_s() - started > with_processes.used_cpu_s > 0)  # it reads ahead
    assert alone.used_cpu_s == alone.cpu_s() == 0
    assert with_processes.wait_s > 0 and alone.wait_s > 0


@pytest.mark.parametrize(
    ("read", "failure"),
    [pytest.param(fall, "host_memory", id="killed"), pytest.param(leave, "killed", id="gone")],
)
def test_a_dead_process_is_named_and_another_try_may_do(read, failure):
    with pytest.raises(LoaderDiedError, match=r"^DataLoader worker \(pid \d+\) ") as raised:
        list(Loader(read, range(1, 9), workers=1))
    names = tuple(each.__name__ for each in LoaderDiedError.__mro__)
    assert classify(Seen(exceptions=names, message=str(raised.value))) == failure


def test_a_signal_to_the_whole_group_leaves_the_reading_to_its_caller():
    """In a process of its own, whose fork server the loader starts."""
    found = in_own_process(
        "loader = Loader(time.sleep, [0.05] * 20, workers=2)\n"
        "next(loader)\n"
        "for process in psutil.Process().children(recursive=True):\n"
        "    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):\n"
        "        process.send_signal(number)\n"
        "print(len(list(loader)))"
    )
    assert found == "19"


def in_own_process(code: str) -> str:
    """Output of a program that makes loaders."""
    imports = (
        "import os, signal, time, psutil\n"
        "from smaug_core.data.loading.loader import Loader\n"
        "from tests.data.loading.loader_work import describe\n"
    )
    program = imports + "if __name__ == '__main__':\n" + textwrap.indent(code, "    ")
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0
    return done.stdout.strip()


def test_no_process_outlives_a_killed_parent():
    code = (
        "import os, time, psutil\n"
        "from smaug_core.data.loading.loader import Loader\n"
        "if __name__ == '__main__':\n"
        "    loader = Loader(time.sleep, [0.2] * 100, workers=2)\n"
        "    next(loader)\n"
        "    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(children) >= 3
    gone, left = psutil.wait_procs(children, timeout=10)
    assert not left
    parent.stdout.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Fourteen, two of them unreadable."""
    items = make_items(tmp_path_factory.mktemp("media"), clips=9, stills=5)
    items[3].media.path.write_bytes(b"not a video")
    items[10].media.path.write_bytes(b"not a picture")
    return items


def batches_of(samples, rank=0, size=1):
    recipe = replace(RECIPE, max_unreadable=0.2)
    world = World(rank=rank, size=size)
    return TrainingBatches(samples, load_tokenizer("moving_shapes"), recipe, seed=0, world=world)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_batches_are_the_same_for_any_number_of_processes(samples, workers):
    alone, shared = batches_of(samples), batches_of(samples)
    expected = steps_of(alone, 0, 9)
    assert all(equal(*pair) for pair in zip(expected, steps_of(shared, 0, 9, workers), strict=True))
    assert alone.unreadable == shared.unreadable and len(shared.unreadable) == 2
    resumed = batches_of(samples)
    resumed.know_unreadable(alone.unreadable)
    assert all(equal(*pair) for pair in zip(expected[4:], steps_of(resumed, 4, 9, workers), strict=True))
    for rank in range(2):
        one, other = (steps_of(batches_of(samples, rank, 2), 0, 5, number) for number in (0, workers))
        assert all(equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_clip_counts_as_unreadable_at_the_step_that_uses_it(samples, workers):
    batches = batches_of(samples)
    steps, counts = batches.loader(0, 9, workers=workers), []
    for _ in range(9):
        batches.use(next(steps))
        counts.append(len(batches.unreadable))
    assert counts == expected_counts(samples) and counts[0] < counts[-1] == 2


def expected_counts(samples) -> list[int]:
    batches = batches_of(samples)
    seen: set[str] = set()
    counts = []
    for step in range(9):
        epoch, place = divmod(step, batches.steps_per_epoch)
        seen |= {samples[row].id for row in batches.epoch_order(epoch)[place]} & {samples[3].id, samples[10].id}
        counts.append(len(seen))
    return counts
