"""Facts for the ledger come from the home folder alone, and are what the stages did."""

import dataclasses

import pytest

from experiments.store.documents import StoreError, write_json
from experiments.store.records import NO_GPUS
from experiments.store.store import Store, all_stages, stage_record
from experiments.store.trials import superseded, trial_documents, trial_record, write_trial, write_trials
from tests.documents import changed, read_json
from tests.experiments.made_trials import execute, ranks_of, trial


def test_a_trial_is_told_completely_by_its_document(tmp_path):
    made = trial()
    path = write_trial(tmp_path, made, marks=["stale code accepted"])
    assert path.parent == tmp_path / "trials" / "masking_ratio" and path.name.startswith(made.fingerprint[:12])
    (document,) = trial_documents(tmp_path)
    assert (document.table, document.scale, document.variant, document.position) == ("4", "tiny", "50%", 2)
    assert (document.seed, document.baseline, document.params) == ("0", "50%", {"pretrain.mask_ratio": 0.5})
    assert document.report.columns[0] == "pretrain.hours"
    assert [told.fingerprint for told in document.stages] == [s.fingerprint for s in made.stages]
    assert [told.task for told in document.stages] == [None, "msrvtt", "msrvtt"]
    assert document.marks == ["stale code accepted"]


def test_asking_again_for_the_same_trial_changes_nothing(tmp_path):
    write_trial(tmp_path, trial())
    before = trial_documents(tmp_path)
    write_trial(tmp_path, trial())
    assert trial_documents(tmp_path) == before


def test_the_trial_asked_for_last_is_valid_also_when_it_is_an_old_one(tmp_path):
    old, new = trial(r1=25.0), trial(r1=26.0)
    write_trial(tmp_path, old)
    write_trial(tmp_path, new)
    ((outdated, valid),) = superseded(trial_documents(tmp_path))
    assert (outdated.fingerprint, valid.fingerprint) == (old.fingerprint, new.fingerprint)
    write_trial(tmp_path, old)
    ((outdated, valid),) = superseded(trial_documents(tmp_path))
    assert (outdated.fingerprint, valid.fingerprint) == (new.fingerprint, old.fingerprint)


def test_the_sweep_file_that_ran_last_sets_baseline_and_row_order_of_every_row(tmp_path):
    original = [trial(variant) for variant in ("10%", "50%")]
    changes = {"variants": {"new": {}, "50%": {}, "10%": {}}, "baseline": "new", "title": "A copy"}
    sweep = original[0].sweep.model_copy(update=changes)
    copied = [dataclasses.replace(original[1], sweep=sweep, variant=variant) for variant in ("new", "50%")]

    def rows():
        found = sorted(trial_documents(tmp_path), key=lambda document: document.position)
        assert len({(document.baseline, document.title) for document in found}) == 1
        return found[0].baseline, [document.variant for document in found]

    for _ in range(2):
        write_trials(tmp_path, [(one, []) for one in original])
        assert rows()[0] == "50%"
        write_trials(tmp_path, [(one, []) for one in copied])
        assert rows() == ("new", ["new", "50%", "10%"])
    write_trials(tmp_path, [(original[0], [])])  # as with --only
    assert rows() == ("50%", ["10%", "50%", "new"])


def test_a_finished_trial_gives_its_results_and_the_hours_of_its_whole_lineage(tmp_path):
    made = trial(r1=25.0)
    assert execute(tmp_path, made) == [0, 0, 0]
    write_trial(tmp_path, made)
    facts = trial_record(tmp_path, trial_documents(tmp_path)[0])
    assert facts.status(driven=False) == "FINISHED"
    metrics = {name: value for name, (value, _) in facts.metrics().items()}
    results = [read_json(path) for path in sorted((tmp_path / "store").glob("*/*/result.json"))]
    pretrain_s = read_json(tmp_path / "store" / "pretrain" / made.stages[0].fingerprint[:12] / "result.json")[
        "useful_s"
    ]
    assert metrics["msrvtt.t2v.r1"] == 25.0 and metrics["msrvtt.match_contrast.t2v.r1"] == 26.0
    assert metrics["row_hours.pretrain"] == pretrain_s / 3600
    assert metrics["row_hours.total"] == pytest.approx(sum(r["useful_s"] for r in results) / 3600)
    assert facts.evaluations()["msrvtt"]["n_queries"] == 200
    assert facts.ranks() == {"msrvtt": ranks_of(25.0)}


def spent_by(facts):
    told = facts.metrics()
    return {name.removeprefix("row_spent."): told[name][0] for name in told if name.startswith("row_spent.")}


def test_what_a_row_took_counts_every_attempt_and_each_stage_once(tmp_path):
    """A finetuning that two slots share; of the pre-training the first attempt died after 7200 s of 2 GPUs."""
    made = trial()
    execute(tmp_path, made)
    write_trial(tmp_path, made)
    document = trial_documents(tmp_path)[0]
    shared = changed(document.stages[1], {"name": "finetune.other", "task": "other"})
    document = dataclasses.replace(document, stages=(*document.stages, shared))
    before = spent_by(trial_record(tmp_path, document))
    assert trial_record(tmp_path, document).metrics()["row_hours.total"][0] == pytest.approx(before["useful"])
    hours = [facts.hours for facts in all_stages(tmp_path)]
    assert len(hours) == 3 and before.keys() == {"useful", "lost", "overhead", "billed"}
    assert before["billed"] == pytest.approx(sum(one.billed for one in hours))
    assert before["billed"] == pytest.approx(before["useful"] + before["lost"] + before["overhead"])
    attempts = tmp_path / "store" / "pretrain" / made.stages[0].fingerprint[:12] / "attempts"
    (attempts / "0001").rename(attempts / "0002")
    (attempts / "0001").mkdir()
    for name in ("owner.json", "progress.json"):
        write_json(attempts / "0001" / name, read_json(attempts / "0002" / name) | {"spent_s": 7200, "train_s": 3600})
    result = attempts.parent / "result.json"
    write_json(result, read_json(result) | {"attempt": 2})
    owner = read_json(attempts / "0001" / "owner.json")
    write_json(attempts / "0001" / "owner.json", owner | {"pid": 2**22 + 1})
    after = spent_by(trial_record(tmp_path, document))
    assert {name: after[name] - before[name] for name in after} == pytest.approx(
        {"useful": 0, "lost": 1, "overhead": 1, "billed": 2}, abs=1e-4
    )


def test_energy_of_a_row_is_known_if_every_attempt_at_every_stage_counted_it(tmp_path):
    made = trial()
    execute(tmp_path, made)
    write_trial(tmp_path, made)
    ends = sorted((tmp_path / "store").glob("*/*/attempts/0001/end.json"))
    for place, end in enumerate(ends):
        assert "kwh" not in spent_by(trial_record(tmp_path, trial_documents(tmp_path)[0]))
        write_json(end, read_json(end) | {"joules": 3.6e6 * (place + 1)})
    assert spent_by(trial_record(tmp_path, trial_documents(tmp_path)[0]))["kwh"] == pytest.approx(6.0)
    told = [(facts.energy_kwh, facts.no_energy) for facts in all_stages(tmp_path)]
    assert sorted(told) == [(1.0, ""), (2.0, ""), (3.0, "")]


def test_why_energy_is_not_known(tmp_path):
    execute(tmp_path, trial(), stages=1)
    (owner,) = (tmp_path / "store").glob("*/*/attempts/0001/owner.json")
    assert [facts.no_energy for facts in all_stages(tmp_path)] == [NO_GPUS]
    write_json(owner, read_json(owner) | {"gpus": 1})
    assert [facts.no_energy for facts in all_stages(tmp_path)] == [
        "1 of 1 attempts at a stage told no count of their GPUs"
    ]


def test_an_unfinished_trial_runs_only_while_somebody_is_at_it(tmp_path):
    made = trial()
    write_trial(tmp_path, made)
    document = trial_documents(tmp_path)[0]
    assert trial_record(tmp_path, document).status(driven=True) == "RUNNING"
    assert trial_record(tmp_path, document).status(driven=False) == "KILLED"
    execute(tmp_path, made, stages=1)
    facts = trial_record(tmp_path, document)
    assert facts.status(driven=False) == "KILLED"
    assert set(facts.metrics()) == {"row_hours.pretrain"}


def test_a_failed_stage_fails_the_trial(tmp_path):
    made = trial(pretrain={"fail_at": 2})
    execute(tmp_path, made, stages=1)
    write_trial(tmp_path, made)
    assert trial_record(tmp_path, trial_documents(tmp_path)[0]).status(driven=True) == "FAILED"


def test_stages_that_were_set_aside_or_never_begun_are_no_facts(tmp_path):
    made = trial()
    execute(tmp_path, made, stages=2)
    directory = tmp_path / "store" / "finetune" / made.stages[1].fingerprint[:12]
    directory.rename(directory.with_name(directory.name + ".aside-1"))
    assert [facts.fingerprint for facts in all_stages(tmp_path)] == [made.stages[0].fingerprint]
    assert stage_record(tmp_path, "evaluate", made.stages[2].fingerprint) is None


def test_another_stage_in_the_folder_is_an_error_that_names_both(tmp_path):
    made = trial()
    execute(tmp_path, made, stages=1)
    fingerprint = made.stages[0].fingerprint
    other = fingerprint[:12] + "0" * 52
    with pytest.raises(StoreError, match=f"holds the stage {fingerprint}, not {other}"):
        stage_record(tmp_path, "pretrain", other)


def test_hours_of_different_devices_are_never_added_up(tmp_path):
    made = trial()
    execute(tmp_path, made)
    write_trial(tmp_path, made)
    owner = tmp_path / "store" / "finetune" / made.stages[1].fingerprint[:12] / "attempts" / "0001" / "owner.json"
    write_json(owner, read_json(owner) | {"unit": "H200 GPU h"})
    metrics = trial_record(tmp_path, trial_documents(tmp_path)[0]).metrics()
    assert "row_hours.pretrain" in metrics and "row_hours.total" not in metrics
    assert not any(name.startswith("row_spent.") for name in metrics)


def test_a_damaged_trial_file_is_named_and_is_written_again(tmp_path):
    made = trial()
    path = write_trial(tmp_path, made)
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match=rf"{path.name}: cannot be read .*give the command of its sweep again"):
        trial_documents(tmp_path)
    assert write_trial(tmp_path, made) == path
    assert trial_documents(tmp_path)[0].fingerprint == made.fingerprint


@pytest.mark.parametrize(("waited", "marks"), [(0.0, []), (0.1, []), (0.11, ["waited for data"])])
def test_a_row_that_waited_for_data_is_marked(tmp_path, waited, marks):
    made = trial()
    execute(tmp_path, made)
    write_trial(tmp_path, made)
    path = Store(tmp_path).directory(made.stages[0]) / "result.json"
    write_json(path, read_json(path) | {"useful_s": 10.0, "loader_wait_s": 10.0 * waited})
    assert trial_record(tmp_path, trial_documents(tmp_path)[0]).marks == marks
