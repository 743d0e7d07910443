"""What was spent is added up as it would be by hand, and never across units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.store.device_hours import totals_of
from reports.analysis.spending import spend
from tests.reports.rows import row
from tests.reports.stage_rows import paid


def trial(variant, stages, *, total=None, r1=20.0, **changes):
    """A trial of these stage runs; `total`: its hours as if trained alone."""
    made = row(variant, r1=r1, stage_runs={f"stage {place}": run for place, run in enumerate(stages)}, **changes)
    if total is not None:
        made.metrics["row_hours.total"] = total
    return made


def test_a_shared_stage_is_counted_once_and_saved_once_for_each_further_row():
    stages = [
        paid("pre", useful=4.0, lost=1.0, overhead=0.5, attempts=3),
        paid("tune-a", "finetune", useful=1.0),
        paid("tune-b", "finetune", useful=2.0, overhead=0.25),
    ]
    trials = [trial("10%", ["pre", "tune-a"], total=5.0), trial("50%", ["pre", "tune-b"], total=6.0)]
    found = spend(trials, stages)
    (total,) = found.total
    assert (total.unit, total.devices, total.num_stages, total.num_attempts) == ("CPU h", ("Xeon",), 3, 5)
    assert (total.useful, total.lost, total.overhead, total.billed) == (7.0, 1.0, 0.75, 8.75)
    assert (total.alone, total.saved) == (11.0, 4.0)
    assert found.unused == () and found.faults == () and found.num_uncounted == 0


def test_attempts_that_ended_without_a_result_are_told_apart():
    stages = [
        paid("pre", useful=4.0, attempts=3),
        paid("tune", "finetune", useful=1.0, attempts=2, status="RUNNING"),
        paid("dead", useful=0.5, attempts=2, status="FAILED"),
        paid("none", useful=0.0, attempts=0, status="KILLED"),
        paid("once", useful=0.1),
    ]
    found = spend([trial("10%", ["pre", "tune"]), trial("50%", ["dead"]), trial("65%", ["none"])], stages)
    assert (found.total[0].num_attempts, found.total[0].num_without_result) == (7, 2 + 1 + 2)
    assert [one.num_without_result for one in found.unused] == [0]


def test_what_two_sweeps_share_is_in_both_of_them_and_once_in_the_total():
    stages = [
        paid("pre", useful=4.0),
        paid("tune-a", "finetune", useful=1.0),
        paid("tune-b", "finetune", useful=2.0),
    ]
    trials = [
        trial("50%", ["pre", "tune-a"], total=5.0),
        trial("0.8", ["pre", "tune-b"], total=6.0, sweep="keeping_rate", table="5"),
    ]
    found = spend(trials, stages)
    assert [(one.sweep, one.spent[0].useful, one.spent[0].saved) for one in found.sweeps] == [
        ("masking_ratio", 5.0, 0.0),
        ("keeping_rate", 6.0, 0.0),
    ]
    assert (found.total[0].useful, found.total[0].saved) == (7.0, 4.0)


def test_hours_of_two_units_are_never_added_up():
    stages = [
        paid("pre", useful=1.0, unit="H200 GPU h", device="NVIDIA H200"),
        paid("tune", "finetune", useful=3.0),
        paid("alone", useful=5.0),
    ]
    trials = [trial("10%", ["pre", "tune"], unit="H200 GPU h"), trial("50%", ["alone"], total=5.0)]
    found = spend(trials, stages)
    assert {one.unit: (one.useful, one.alone, one.saved) for one in found.total} == {
        "CPU h": (8.0, 5.0, 0.0),
        "H200 GPU h": (1.0, None, None),
    }
    assert found.num_uncounted == 1


def test_unfinished_trials_are_counted_and_have_nothing_to_save():
    stages = [paid("pre", useful=2.0), paid("tune", "finetune", useful=1.0), paid("half", useful=0.5)]
    trials = [
        trial("10%", ["pre", "tune"], total=3.0),
        trial("25%", ["half"], r1=None),
        trial("50%", ["pre"], r1=None, scale="paper"),
    ]
    found = spend(trials, stages)
    assert [(one.scale, one.num_finished, one.num_unfinished) for one in found.sweeps] == [
        ("paper", 0, 1),
        ("tiny", 1, 1),
    ]
    assert (found.total[0].billed, found.total[0].saved, found.num_uncounted) == (3.5, 0.0, 2)


def test_stages_of_no_current_trial_were_paid_for_too():
    found = spend([trial("50%", ["pre"], total=2.0)], [paid("pre", useful=2.0), paid("old", useful=7.0)])
    assert [one.billed for one in found.total] == [2.0]
    assert [(one.billed, one.saved) for one in found.unused] == [(7.0, None)]


def test_stages_that_were_begun_anew_were_paid_for_too():
    broken = paid("broken", useful=1.0)
    del broken.hours["lost"]
    found = spend([trial("50%", ["pre"])], [paid("pre", useful=2.0)], [paid("stale", useful=3.0), broken])
    assert [(one.billed, one.num_stages) for one in found.archived] == [(3.0, 1)]
    assert found.total[0].billed == 2.0
    assert found.faults == ("stage pretrain broken: its run broken lacks hours.lost",)


def test_estimated_stages_are_counted():
    found = spend([trial("50%", ["pre"])], [paid("pre", useful=2.0, estimated=True)])
    assert found.total[0].num_estimated == 1


@pytest.mark.parametrize("part", ["useful", "lost", "overhead", "billed"])
def test_a_stage_without_its_hours_is_told_and_left_out(part):
    broken = paid("pre", useful=2.0)
    del broken.hours[part]
    found = spend([trial("50%", ["pre"], total=2.0)], [broken])
    assert found.faults[0] == f"stage pretrain pre: its run pre lacks hours.{part}"
    assert found.total == () and found.num_uncounted == 1


def test_a_stage_that_the_ledger_lacks_is_told():
    found = spend([trial("50%", ["pre", "gone"], total=2.0)], [paid("pre", useful=2.0)])
    assert found.faults == ("stages of current trials of which the ledger holds no hours: gone",)
    assert found.num_uncounted == 1 and found.total[0].saved is None


def test_sweeps_stand_in_the_order_of_their_tables():
    trials = [
        trial("a", [], sweep="frame_resolution", table="10"),
        trial("b", [], sweep="own", table=None),
        trial("c", [], sweep="masking_ratio", table="4"),
        trial("d", [], sweep="zero_shot", table="2"),
    ]
    order = [one.sweep for one in spend(trials, []).sweeps]
    assert order == ["zero_shot", "masking_ratio", "frame_resolution", "own"]


def test_each_row_has_all_its_stages_and_the_sweep_each_stage_once():
    stages = [
        paid("pre", useful=4.0, lost=1.0),
        paid("tune-a", "finetune", useful=1.0, overhead=0.5, estimated=True),
        paid("tune-b", "finetune", useful=2.0),
    ]
    twice = trial("10%", ["pre", "tune-a", "tune-a"])
    (sweep,) = spend([twice, trial("50%", ["pre", "tune-b"]), trial("65%", [], r1=None)], stages).sweeps
    told = [
        (one.variant, one.finished, [(t.num_stages, t.billed, t.num_estimated) for t in one.spent])
        for one in sweep.rows
    ]
    assert told == [("10%", True, [(2, 6.5, 1)]), ("50%", True, [(2, 7.0, 0)]), ("65%", False, [])]
    assert [(one.num_stages, one.billed) for one in sweep.spent] == [(3, 8.5)]


def test_energy_is_told_where_every_stage_counted_it_and_else_why_not():
    counted = {"unit": "H200 GPU h", "no_energy": ""}
    stages = [
        paid("pre", useful=4.0, metrics={"energy.kwh": 1.5}, **counted),
        paid("tune", useful=1.0, metrics={"energy.kwh": 0.25}, **counted),
        paid("gone", useful=1.0, metrics={"energy.kwh": 9.0}, unit="H200 GPU h", no_energy="1 of 2 attempts"),
        paid("zero", useful=1.0, metrics={"energy.kwh": 0.0}, unit="A100 GPU h", no_energy=""),
    ]
    trials = [trial("10%", ["pre", "tune"]), trial("25%", ["pre", "gone"]), trial("50%", ["zero"])]
    (sweep,) = spend(trials, stages).sweeps
    assert [one.spent[0].kwh for one in sweep.rows] == [1.75, None, 0.0]
    assert [(one.unit, one.kwh, one.no_energy) for one in sweep.spent] == [
        ("A100 GPU h", 0.0, ()),
        ("H200 GPU h", None, ("1 of 2 attempts",)),
    ]
    assert sweep.no_energy == ("1 of 2 attempts",)


hours = st.floats(0, 1e3)


@given(
    st.lists(st.tuples(hours, hours, hours, st.sampled_from(["CPU h", "GPU h"])), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=6),
)
def test_the_bill_of_every_sweep_and_row_is_its_parts_and_no_stage_is_in_a_sum_twice(held, rows):
    stages = [
        paid(str(place), useful=useful, lost=lost, overhead=overhead, unit=unit)
        for place, (useful, lost, overhead, unit) in enumerate(held)
    ]
    used = [{str(stage) for stage in row if stage < len(stages)} for row in rows]
    (sweep,) = spend([trial(f"row {n}", sorted(names)) for n, names in enumerate(used)], stages).sweeps
    for total in (*sweep.spent, *(total for one in sweep.rows for total in one.spent)):
        assert total.billed == pytest.approx(total.useful + total.lost + total.overhead)
    for unit in ("CPU h", "GPU h"):
        once = sum(
            stage.hours["billed"] for stage in stages if stage.unit == unit and stage.run_id in set().union(*used)
        )
        assert sum(total.billed for total in sweep.spent if total.unit == unit) == pytest.approx(once)
        row_by_row = sum(total.billed for one in sweep.rows for total in one.spent if total.unit == unit)
        assert row_by_row >= once - 1e-6


def test_nothing_recorded_is_nothing_spent():
    found = spend([], [])
    assert (found.sweeps, found.total, found.unused, found.faults) == ((), (), (), ())


def test_a_stage_that_is_given_twice_counts_once():
    held = paid("pre", useful=4.0, metrics={"energy.kwh": 1.0}, no_energy="")
    (total,) = totals_of([held, held])
    assert (total.num_stages, total.billed, total.kwh) == (1, 4.0, 1.0)
