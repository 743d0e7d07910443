"""Descriptions, colours and saved views that MLflow's own pages show beside the numbers.

A saved view is a tag of the experiment in the form that MLflow's page itself writes (*Views*, *Save as new view*).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from experiments.store.attempt_files import FailureNote
from experiments.store.device_hours import PARTS, Total
from experiments.store.documents import TrialDocument

NOTE = "mlflow.note.content"
"""Tag of a run or an experiment that MLflow shows as its description."""
COLOR = "mlflow.runColor"
"""Tag of a run; without it MLflow picks a random colour, and two rows of a table may look the same."""
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000", "#f0e442")
"""Okabe and Ito's, which colour-blind people can distinguish."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment that holds trainings, not conversations."""
VIEW = "mlflow.sharedViewState."
SPENT = "smaug.spent."
"""Prefix of an experiment's tags that hold, by scale, what its distinct stages took."""
HOURS, PER_HOUR = "row_hours.pretrain", "_per_hour"
"""Divisor of a row's accuracy, and suffix of the quotient's name."""
FAILURE_LENGTH = 500
"""Characters of a failure in a row's description; the stage's folder holds all of them."""
SLOTS_SHOWN, PARAMS_SHOWN, LONGEST = 3, 12, 4500
"""Slots and parameters of a view, and characters of a description: MLflow refuses an experiment's tag of over 5000."""
COUNTS = "tags.`smaug.superseded_by` IS NULL"
"""Query for the runs that are not superseded."""
UNITS = (
    "The unit of hours is in the tag `smaug.unit`: `CPU h` are processor hours (user and system time of all processes) "
    "and `GPU h` are wall time x GPUs; they have no common scale, so compare rows of one unit and one `smaug.device`."
)
STAGES_NOTE = f"""Each run is a **stage**: one training or evaluation, done once and shared by all rows that need it.
These runs own the hours really spent: `hours.billed` = `useful` + `lost` + `overhead` over all attempts; add them up
here, never over rows. `energy.kwh` is what the GPUs used, where they counted it in every attempt; the tag
`smaug.no_energy` says why it is not there. `memory.peak_bytes` is the most memory that the processes of an attempt
held. {UNITS} The training curves are here too. *Views* > *Hours spent* sorts by cost.

The rows of a table are the runs of `smaug/<sweep>`, whose descriptions link to their stages."""


def spent_tag(scale: str, totals: Iterable[Total]) -> dict[str, str]:
    """Return the tag of a sweep's experiment that holds what its distinct stages at a scale took, in JSON, by unit."""
    by_unit = {
        total.unit: {"stages": total.num_stages, "estimated": total.num_estimated}
        | {part: getattr(total, part) for part in PARTS}
        | ({} if total.kwh is None else {"kwh": total.kwh})
        for total in totals
    }
    return {SPENT + scale: json.dumps(by_unit)}


def sweep_note(document: TrialDocument, spent: Mapping[str, Sequence[Total]] | None = None) -> str:
    """Return the description of the experiment of a trial's sweep, with what its distinct stages took by scale."""
    slots = [_code(f"{slot}.t2v.r1{PER_HOUR}") for slot in slots_of(document)]
    answer = (
        f"""**Which row is best per hour?** Choose *Views* > *Best per hour (SCALE)*: rows sorted by {slots[0]}, and R@1
drawn against hours. Or search for ``tags.`smaug.scale` = 'SCALE' and attributes.status = 'FINISHED'``, sort by that
metric, and in the chart view add a scatter of `{HOURS}` against R@1. {", ".join(slots)}: points of R@1 for each hour of
`{HOURS}`. A quotient flatters cheap rows: look at the scatter too, and at several seeds, before you believe it.

"""
        if slots
        else ""
    )
    note = f"""**{_title(document)}.** Each run is a row ({_plain(document.report.row)}) with one
seed at one scale; its parameters are all settings that any row sets. The baseline is {_code(document.baseline)}.

{answer}`row_hours.*` are what a row would cost if it were trained alone; `row_spent.*` are what all attempts at its
stages took, once all are done: `billed` = `useful` + `lost` + `overhead`, and `kwh` where the GPUs counted it in every
attempt. A stage that rows share is in each of them: **never add either up over rows**. What each stage took is in
`smaug/stages`. {UNITS} A run with the tag `smaug.superseded_by` no longer counts.{_spent(spent or {})}"""
    return note[:LONGEST]


def _spent(spent: Mapping[str, Sequence[Total]]) -> str:
    lines = [f"\n- {_code(scale)}: {_in_words(total)}" for scale in sorted(spent) for total in spent[scale]]
    return f"\n\nSpent on the rows that count, each stage once:\n{''.join(lines)}" if lines else ""


def _in_words(total: Total) -> str:
    parts = ", ".join(f"{getattr(total, part):.3g} {part}" for part in PARTS if part != "billed")
    estimated = f"; {total.num_estimated} of them estimated, since an attempt died" if total.num_estimated else ""
    energy = f"no kWh: {_plain('; '.join(total.no_energy))}" if total.kwh is None else f"{total.kwh:.3g} kWh"
    return f"**{total.billed:.3g} {total.unit} billed** at {total.num_stages} stages{estimated} ({parts}); {energy}"


def trial_note(
    document: TrialDocument,
    stage_runs: Mapping[str, str],
    stages: str,
    early: Mapping[str, FailureNote] = MappingProxyType({}),
) -> str:
    """Return the description of a trial's run.

    `stages` is the id of the experiment that holds its stages' runs; `early` has the failures of stages whose latest
    jobs ended before they made an attempt.
    """
    settings = [_code(f"{key} = {value}") for key, value in document.params.items()]
    links = [f"[{_plain(name)}](#/experiments/{stages}/runs/{run_id})" for name, run_id in stage_runs.items()]
    ended = [f"\n\n{_plain(name)}: its job ended before it made an attempt: {_quoted(early[name])}" for name in early]
    baseline, scale = document.baseline, _plain(document.scale)
    beside = "the baseline" if document.variant == baseline else f"to be compared with {_code(baseline)}"
    note = f"""{_code(document.variant)}, {beside}: a row of {_title(document)}.
Seed {document.seed}, scale {scale}. Stages: {", ".join(links) or "none has begun"}.{"".join(ended)}

Settings: {", ".join(settings) or "those of the scale"}."""
    return note[:LONGEST]


def _quoted(failure: FailureNote) -> str:
    """Return a failure as a line without markup."""
    words = " ".join(failure.words.replace("`", "'").split())
    return _code(words if len(words) <= FAILURE_LENGTH else words[:FAILURE_LENGTH] + " ...")


def _plain(text: str) -> str:
    """Escape a text for a line of Markdown; MLflow's page also makes links of addresses and @names."""
    text = " ".join(text.split())
    text = re.sub(r"[\\`*_{}\[\]~|!#]|:(?=//)|(?<=www)\.|(?<!\S)@", lambda match: "\\" + match[0], text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text: str) -> str:
    """Quote a text as code in a line of Markdown, between more backticks than any run of them in it."""
    text = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def color(document: TrialDocument) -> str:
    """Return a trial's colour in MLflow's charts: the same for all seeds and scales of a variant."""
    return COLORS[document.position % len(COLORS)]


def sweep_view(document: TrialDocument) -> dict[str, str]:
    """Return the tag of the view *Best per hour* of a sweep at the trial's scale; empty without R@1 in its table."""
    accuracies = [f"{slot}.t2v.r1" for slot in slots_of(document)[:SLOTS_SHOWN]]
    if not accuracies:
        return {}
    scale, params = document.scale, list(document.params)[:PARAMS_SHOWN]
    numbers = [name for r1 in accuracies for name in (r1 + PER_HOUR, r1)]
    charts = []
    for r1 in accuracies:
        axes = {"xaxis": {"key": HOURS, "type": "METRIC"}, "yaxis": {"key": r1, "type": "METRIC"}}
        charts += [_chart("SCATTER", **axes), _bar(r1 + PER_HOUR)]
    metrics = [HOURS, *accuracies]
    charts.append(_chart("PARALLEL", selectedParams=params, selectedMetrics=metrics, showAllRuns=False))
    return _view(
        f"smaug-{hashlib.sha256(scale.encode()).hexdigest()[:8]}",
        f"Best per hour ({scale})",
        search=f"tags.`smaug.scale` = '{scale}' and attributes.status = 'FINISHED' and {COUNTS}",
        sort=numbers[0],
        columns=[*_named("metrics", [*numbers, HOURS]), *_named("params", params), *_named("tags", ["smaug.unit"])],
        charts=charts,
    )


def stages_view() -> dict[str, str]:
    """Return the tag of the view *Hours spent* of all stages."""
    hours = [f"hours.{part}" for part in ("billed", "useful", "lost", "overhead")]
    return _view(
        "smaug-hours",
        "Hours spent",
        search=COUNTS,
        sort=hours[0],
        columns=[*_named("metrics", hours), *_named("tags", ["smaug.unit", "smaug.kind", "smaug.attempts"])],
        charts=[_bar(hours[0]), _chart("LINE", metricKey="loss", selectedMetricKeys=["loss"])],
    )


def per_hour(metrics: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Return value and time of R@1 points for each hour of pre-training, e.g. `msrvtt.t2v.r1_per_hour`, by slot."""
    hours, recorded = metrics.get(HOURS, (0.0, 0.0))
    if hours <= 0:
        return {}
    accuracies = {name: metrics[name] for name in metrics if name.endswith(".t2v.r1") and name.count(".") == 2}
    return {name + PER_HOUR: (value / hours, max(at, recorded)) for name, (value, at) in accuracies.items()}


def slots_of(document: TrialDocument) -> list[str]:
    """Return the slots whose R@1 the sweep's table shows, in its order."""
    suffix = ".t2v.r1"
    return [column.removesuffix(suffix) for column in document.report.columns if column.endswith(suffix)]


def missing(tags: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return the defaults that are missing or empty among some tags."""
    return {key: value for key, value in defaults.items() if not tags.get(key)}


def _title(document: TrialDocument) -> str:
    table = f"Table {_plain(document.table)}: " if document.table else ""
    return table + _plain(document.title)


def _view(key: str, name: str, *, search: str, sort: str, columns: list[str], charts: list[Any]) -> dict[str, str]:
    section = {"uuid": "smaug", "name": name, "display": True, "isReordered": False, "deleted": False, "columns": 2}
    state = {
        "searchFilter": search,
        "orderByKey": f"metrics.`{sort}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [chart | {"uuid": f"smaug-{index}"} for index, chart in enumerate(charts)],
        "compareRunSections": [section | {"isGenerated": False}],
        "hideEmptyCharts": True,
    }
    value = {"name": name, "createdAt": 0, "state": json.dumps(state, separators=(",", ":"))}
    return {VIEW + key: json.dumps(value, separators=(",", ":"))}


def _chart(kind: str, **more: Any) -> dict[str, Any]:
    common = {"runsCountToCompare": 100, "metricSectionId": "smaug", "deleted": False, "isGenerated": False}
    return {"type": kind} | common | more


def _bar(name: str) -> dict[str, Any]:
    return _chart("BAR", metricKey=name)


def _named(kind: str, names: Iterable[str]) -> list[str]:
    return [f"{kind}.`{name}`" for name in names]
