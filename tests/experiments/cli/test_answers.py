"""What a run says at its end beside its tables."""

import dataclasses

from experiments.cli.answers import unknown_words
from experiments.store.documents import TrialDocument, TrialStage
from experiments.store.records import TrialRecord
from experiments.store.store import Store, stage_record
from experiments.store.trials import write_trial
from smaug_core.data.unknown_words import UnknownWords
from tests.documents import read_json
from tests.experiments.made_trials import execute, stage, trial

HIGH = UnknownWords(captions=2, tokens=10, unknown=7, most_frequent={"dog": 4, "walks": 2})
LOW = UnknownWords(captions=2, tokens=100, unknown=3, most_frequent={"cat": 3})


def test_unknown_words_of_a_data_set_are_told_once_and_stay_out_of_mlflow(tmp_path):
    counts = {"msrvtt test": HIGH.to_json(), "didemo test": LOW.to_json()}
    stages = []
    for r1 in (10.0, 20.0):
        one = stage("evaluate", task="msrvtt", r1=r1, unknown_words=counts)
        stages.append(dataclasses.replace(one, settings=one.settings | {"model": {"tokenizer": "moving_shapes"}}))
    assert execute(tmp_path, dataclasses.replace(trial(), stages=tuple(stages))) == [0, 0]
    store = Store(tmp_path)
    assert store.record(stages[0]).result.notes["unknown_words"] == counts
    assert unknown_words(stages, store) == [HIGH.message("msrvtt test", "moving_shapes")]
    named = {"name": "evaluate.msrvtt", "task": "msrvtt", "kind": "evaluate", "fingerprint": stages[0].fingerprint}
    document = TrialDocument.of(read_json(write_trial(tmp_path, trial())))
    facts = stage_record(tmp_path, "evaluate", stages[0].fingerprint)
    assert facts is not None
    (notes,) = TrialRecord(document=document, stages=((TrialStage.of(named), facts),)).evaluations().values()
    assert notes["n_queries"] == 200 and "unknown_words" not in notes
