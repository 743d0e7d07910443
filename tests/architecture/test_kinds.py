"""A kind of stage is spelled in few places: another one is a row of `experiments/stages/kinds.py` and its work."""

import ast

from smaug_core.stage_protocol import KINDS
from tests.architecture.source_tree import modules

SPELLED_IN = {
    "smaug_core.stage_protocol": "names the kinds",
    "smaug_core.config": "names the settings in its messages",
    "experiments.planning.plan": "keys of --json",
    "experiments.cli.answers": "the same keys, printed",
    "experiments.store.records": "the metric row_hours.pretrain",
}
"""Modules that hold the literals, and why."""


def test_kinds_of_stages_are_spelled_in_few_places():
    spelled = {
        name
        for name, module in modules().items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and node.value in KINDS
    }
    new = spelled - SPELLED_IN.keys()
    assert not new, (
        f"import the constant from smaug_core.stage_protocol, or a property of experiments.stages.kinds: {new}"
    )
    assert spelled == SPELLED_IN.keys(), "drop the modules that no longer spell a kind"
