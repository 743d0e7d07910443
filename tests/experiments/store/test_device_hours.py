"""What a stage cost, by hand: what its attempts tell, and what Slurm's accounting knows better."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.store.attempt import NOTHING_SPENT, Attempt
from experiments.store.attempt_files import Accounting, End, Heartbeat, Owner
from experiments.store.device_hours import billed_s, energy_kwh, is_corrected, stage_hours
from experiments.store.process import this_process
from tests.experiments.finished import HOST

GONE = {"pid": 2**22 + 1}
"""No process has an id beyond the largest that Linux gives."""


def attempt(
    number: int,
    *,
    ended: str | None = None,
    gpus: int = 0,
    started: float = 0.0,
    slurm: dict[str, Any] | None = None,
    **account: float,
) -> Attempt:
    """An attempt that died without a word unless it `ended`; `slurm`: start, end and cpu_s by Slurm's accounting."""
    last = {"time": 0.0, **NOTHING_SPENT, **account}
    owner = this_process().raw | HOST | GONE | {"unit": "h", "cpus": 1, "gpus": gpus, "started": started}
    return Attempt(
        number=number,
        directory=Path(f"{number:04d}"),
        owner=Owner.of(owner),
        progress=Heartbeat.of(last),
        end=None if ended is None else End.of(last | {"class": ended, "message": "", "traceback": ""}),
        accounting=None if slurm is None else Accounting.of({"state": "FAILED", "cpu_s": None} | slurm),
    )


def test_hours_of_one_undisturbed_attempt() -> None:
    hours = stage_hours([attempt(1, ended="done", spent_s=3600, train_s=2700, useful_s=2700)], useful_s=2700)
    assert (hours.billed, hours.useful, hours.lost, hours.overhead) == (1.0, 0.75, 0.0, 0.25)
    assert not hours.estimated


def test_hours_of_a_killed_attempt_count_up_to_its_last_sign_and_what_it_had_saved_is_useful() -> None:
    """1800 s trained and 900 s of it saved, killed; then 2700 s more: 3600 s are in the weights, 900 s are lost."""
    killed = attempt(1, spent_s=2160, train_s=1800, useful_s=900)
    finished = attempt(2, ended="done", spent_s=3240, train_s=2700, useful_s=3600)
    hours = stage_hours([killed, finished], useful_s=3600)
    assert hours.billed == pytest.approx((2160 + 3240) / 3600)
    assert hours.useful == 1.0
    assert hours.lost == pytest.approx(900 / 3600)
    assert hours.overhead == pytest.approx((360 + 540) / 3600)
    assert hours.estimated


def test_hours_before_there_is_a_result_take_what_is_saved_as_useful() -> None:
    first = attempt(1, ended="interrupted", spent_s=1000, train_s=900, useful_s=900)
    second = attempt(2, spent_s=1000, train_s=900, useful_s=1440)
    hours = stage_hours([first, second], useful_s=None)
    assert hours.useful == pytest.approx(1440 / 3600)
    assert hours.lost == pytest.approx(360 / 3600)
    assert hours.overhead == pytest.approx(200 / 3600)


def test_hours_add_up() -> None:
    attempts = [attempt(1, spent_s=500, train_s=300, useful_s=100), attempt(2, spent_s=50, train_s=0)]
    hours = stage_hours(attempts, useful_s=None)
    assert hours.billed == pytest.approx(hours.useful + hours.lost + hours.overhead)


def test_saved_work_was_paid_for_even_where_the_last_sign_of_life_is_older() -> None:
    hours = stage_hours([attempt(1, spent_s=10, train_s=10)], useful_s=36)
    assert (hours.billed, hours.useful, hours.lost, hours.overhead) == (0.01, 0.01, 0.0, 0.0)


def test_no_attempts_cost_nothing() -> None:
    hours = stage_hours([], useful_s=None)
    assert (hours.billed, hours.useful, hours.lost, hours.overhead, hours.estimated) == (0, 0, 0, 0, False)


def test_a_killed_job_of_gpus_is_billed_until_slurm_says_it_ended() -> None:
    """4 GPUs, seen alive for 100 s of training after 20 s; the job began 10 s before the worker, and took 150 s."""
    killed = attempt(
        1, gpus=4, started=1010.0, time=1130.0, spent_s=480, train_s=400, slurm={"start": 1000.0, "end": 1150.0}
    )
    hours = stage_hours([killed], useful_s=None)
    assert (hours.billed * 3600, hours.lost * 3600, hours.overhead * 3600) == pytest.approx((600, 400, 200))
    assert not hours.estimated


def test_devices_are_held_before_the_worker_and_after_it_however_it_ended() -> None:
    done = attempt(
        1, ended="done", gpus=2, started=1010.0, time=1110.0, spent_s=200, train_s=150, useful_s=150,
        slurm={"start": 1000.0, "end": 1115.0},
    )  # fmt: skip
    hours = stage_hours([done], useful_s=150)
    assert (hours.billed * 3600, hours.useful * 3600, hours.overhead * 3600) == pytest.approx((230, 150, 80))
    assert not hours.estimated


@pytest.mark.parametrize(
    ("end", "until"),
    [(1150.0, 1150.0), (1120.0, 1130.0), (1500.0, 1300.0)],
    ids=["between", "before its last sign of life", "after the next attempt's start"],
)
def test_an_end_lies_between_the_last_sign_of_life_and_the_next_attempt(end: float, until: float) -> None:
    killed = attempt(1, gpus=1, started=1000.0, time=1130.0, spent_s=130, slurm={"start": 990.0, "end": end})
    following = attempt(2, ended="done", gpus=1, started=1300.0, time=1400.0, spent_s=100)
    assert billed_s([killed, following]) == [until - 990.0, 100.0]


def test_a_worker_whose_clock_is_ahead_is_billed_from_its_own_start() -> None:
    early = attempt(1, gpus=1, started=995.0, time=1100.0, spent_s=105, slurm={"start": 1000.0, "end": 1100.0})
    assert billed_s([early]) == [105.0]


@pytest.mark.parametrize(
    ("gathered", "billed", "known"), [(90.0, 90.0, True), (70.0, 80.0, False), (None, 80.0, False)]
)
def test_processor_time_of_a_killed_job_is_slurms_only_where_that_is_more(
    gathered: float | None, billed: float, known: bool
) -> None:
    slurm = {"start": 0.0, "end": 500.0, "cpu_s": gathered}
    killed = attempt(1, time=100.0, spent_s=80, cpu_s=80, slurm=slurm)
    hours = stage_hours([killed], useful_s=None)
    assert (hours.billed * 3600, hours.estimated) == (pytest.approx(billed), not known)


def test_processor_time_of_a_worker_that_ended_is_its_own() -> None:
    ended = attempt(1, ended="done", spent_s=80, cpu_s=80, slurm={"start": 0.0, "end": 500.0, "cpu_s": 95.0})
    assert billed_s([ended]) == [80.0] and not is_corrected(ended)


seconds = st.floats(0, 1e4)


@st.composite
def attempts(draw: st.DrawFn) -> list[Attempt]:
    """Attempts one after another, in jobs or not, killed or not."""
    found, began = [], draw(seconds)
    for number in range(1, draw(st.integers(1, 5)) + 1):
        gpus, wall = draw(st.integers(0, 4)), draw(seconds)
        spent = wall * gpus if gpus else draw(seconds)
        train = spent * draw(st.floats(0, 1))
        slurm = {"start": began - draw(seconds), "end": began + draw(seconds), "cpu_s": draw(st.none() | seconds)}
        found.append(
            attempt(
                number,
                ended=draw(st.sampled_from([None, "done", "interrupted"])),
                gpus=gpus,
                started=began,
                slurm=slurm if draw(st.booleans()) else None,
                time=began + wall,
                spent_s=spent,
                cpu_s=spent,
                train_s=train,
                useful_s=train * draw(st.floats(0, 1)),
            )
        )
        began += wall + draw(seconds)
    return found


@given(attempts())
def test_the_bill_is_its_parts_whatever_slurm_says_and_never_less_than_what_was_seen(held: list[Attempt]) -> None:
    hours = stage_hours(held, useful_s=None)
    assert hours.billed == pytest.approx(hours.useful + hours.lost + hours.overhead)
    assert all(billed >= a.last.spent_s for billed, a in zip(billed_s(held), held, strict=True))
    assert hours.estimated == any(a.end is None and not is_corrected(a) for a in held)


def test_energy_is_known_only_if_every_attempt_counted_it() -> None:
    first, second = attempt(1, joules=1.8e6), attempt(2, ended="done", joules=1.8e6)
    assert energy_kwh([first, second]) == pytest.approx(1.0)
    assert energy_kwh([first, attempt(2, ended="done")]) is None
    assert energy_kwh([]) is None
