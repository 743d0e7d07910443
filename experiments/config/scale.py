"""Scale files: they fill the slots of sweeps and give the settings that have no default."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr

from experiments.config.settings import (
    FILLED,
    ON_CORPUS,
    PER_TASK,
    SECTIONS,
    Tree,
    section_defaults,
    section_types,
    shown,
    type_fault,
    value_faults,
    with_overrides,
)
from experiments.config.yaml_source import (
    Document,
    Fault,
    Form,
    Keys,
    Name,
    SweepError,
    form_faults,
    nearest,
    read_document,
)
from smaug_core.config import (
    Config,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    PretrainVideoConfig,
)
from smaug_core.settings import from_settings
from smaug_core.stage_protocol import EVALUATE, FINETUNE, KINDS, PRETRAIN, PRETRAIN_VIDEO

PEBIBYTE_GB = 2**20
"""More than any machine has; unlike 1e30, sbatch can write it in megabytes."""

FOLDER = Path(__file__).resolve().parents[2] / "sweeps" / "scales"


class TaskSettings(Form):
    """A task slot: the data that fills it, and what differs from the settings of all tasks."""

    dataset: str
    finetune: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}


class Resources(Form):
    """Processors of a stage, in total."""

    cpus: int = Field(ge=1)
    gpus: int = Field(ge=0)
    nodes: int | None = Field(default=None, ge=1)
    """Machines that share these equally."""
    accelerator: str | None = None
    memory_gb: float | None = Field(default=None, gt=0, le=PEBIBYTE_GB)
    workers: int | None = Field(default=None, ge=0)
    """Loader processes of each process that computes."""


class ResourcesByKind(Form):
    """Resources of each kind of stage."""

    pretrain: Resources
    pretrain_video: Resources
    finetune: Resources
    evaluate: Resources


class Scale(Form):
    """A checked scale file."""

    name: Name = Field(alias="scale")
    title: str
    corpora: dict[str, Annotated[list[str], Field(min_length=1)]]
    """Sources that fill a corpus slot such as `5M`."""
    tasks: dict[str, TaskSettings]
    """Task slots such as `msrvtt`."""
    data: dict[str, Any] | None = None
    model: dict[str, Any]
    pretrain: dict[str, Any]
    pretrain_video: dict[str, Any]
    finetune: dict[str, Any]
    evaluate: dict[str, Any]
    by_kind: ResourcesByKind = Field(alias="resources")
    _tree: Tree = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Fill in defaults, and the settings of every task."""
        self._tree = {}
        for section in SECTIONS:
            given = getattr(self, section)
            self._tree[section] = None if given is None else section_defaults(section) | given
        for section in PER_TASK:
            self._tree[section] = {
                name: self._tree[section] | getattr(task, section) | {FILLED: task.dataset}
                for name, task in self.tasks.items()
            }

    @property
    def tree(self) -> Tree:
        """Settings of every section; of `finetune` and `evaluate` for every task."""
        return self._tree

    @property
    def datasets(self) -> dict[str, str]:
        """Data set of each task slot."""
        return {name: task.dataset for name, task in self.tasks.items()}

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Resources by kind of stage: `cpus`, `gpus`, and those of the others that are given."""
        return self.by_kind.model_dump(exclude_none=True)

    def with_overrides(self, overrides: Mapping[str, Any]) -> "Scale":
        """A copy with dotted settings replaced, which were checked."""
        copy = self.model_copy()
        copy._tree = with_overrides(self._tree, overrides)
        return copy

    def base_config(self) -> Config:
        """Return the configuration without a sweep's changes."""
        return self.config(self.tree, self.datasets)

    def config(self, tree: Tree, tasks: Iterable[str]) -> Config:
        """Return the configuration of a settings tree, with this scale's sources instead of the corpus slot.

        Raises:
            SettingsError: values are not allowed together.
        """
        on_corpus = {name: tree[name] | {"corpus": list(self.corpora[tree[name]["corpus"]])} for name in ON_CORPUS}
        video = from_settings(PretrainVideoConfig, on_corpus[PRETRAIN_VIDEO], PRETRAIN_VIDEO)
        return Config(
            data=None if tree["data"] is None else from_settings(DataConfig, tree["data"], "data"),
            model=from_settings(ModelConfig, tree["model"], "model"),
            pretrain=from_settings(PretrainConfig, on_corpus[PRETRAIN], PRETRAIN),
            pretrain_video=None if video.frames is None else video,
            finetune={t: from_settings(FinetuneConfig, tree[FINETUNE][t], f"finetune.{t}") for t in tasks},
            evaluate={t: from_settings(EvaluateConfig, tree[EVALUATE][t], f"evaluate.{t}") for t in tasks},
        )


def scale_names() -> list[str]:
    """Names of the scales that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_scale(name_or_path: str) -> Scale:
    """Read and check `sweeps/scales/NAME.yaml`, or the file at a path that ends in .yaml.

    Raises:
        SweepError: all errors of the file, or the scale is unknown.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
    elif name_or_path in scale_names():
        path = FOLDER / f"{name_or_path}.yaml"
    else:
        message = f"scale {name_or_path!r} is unknown; {nearest(name_or_path, scale_names())}"
        raise SweepError([Fault("--scale", 0, 0, message)])
    document = read_document(path)
    errors = form_faults(document, Scale)
    errors += [error for section in SECTIONS for error in _section_faults(document, section)]
    corpora = document.held(dict, "corpora")
    for section in ON_CORPUS:
        corpus = document.held(str, section, "corpus")
        if corpus and corpora and corpus not in corpora:
            message = f"{section}.corpus: {corpus!r} is no slot of corpora; {nearest(corpus, corpora)}"
            errors.append(document.fault((section, "corpus"), message))
    errors += [error for kind in KINDS for error in _resource_faults(document, kind)]
    if errors:
        raise SweepError(errors)
    return Scale.model_validate_json(json.dumps(document.value))


def _resource_faults(document: Document, kind: str) -> Iterator[Fault]:
    """Errors of a GPU type without GPUs, and of nodes whose shares cannot be equal."""
    at = ("resources", kind)
    if document.held(str, *at, "accelerator") and document.held(int, *at, "gpus") == 0:
        message = f"resources.{kind}.accelerator: is a type of GPU, and gpus is 0; drop it, or request a GPU"
        yield document.fault((*at, "accelerator"), message)
    nodes = document.held(int, *at, "nodes") or 1
    for what in ("cpus", "gpus"):
        count = document.held(int, *at, what)
        if nodes > 1 and count is not None and (count == 0 or count % nodes):
            message = (
                f"resources.{kind}.{what}: {count} cannot be shared by {nodes} nodes; expected {nodes} or a multiple"
            )
            yield document.fault((*at, what), message)


def _section_faults(document: Document, section: str) -> Iterator[Fault]:
    """Errors of names, types and repeated defaults; without those, of values."""
    shared = document.held(dict, section)
    if not shared:
        return
    places: list[tuple[Keys, dict[str, Any]]] = [((section,), shared)]
    if section in PER_TASK:
        tasks = document.held(dict, "tasks")
        places += [(("tasks", task, section), document.held(dict, "tasks", task, section)) for task in tasks]
    errors = [error for keys, settings in places for error in _given_faults(document, keys, settings, section)]
    for name in sorted(section_types(section).keys() - section_defaults(section).keys() - shared.keys()):
        errors.append(document.fault((section,), f"{section}.{name} is missing; a scale must choose it", at_key=True))
    yield from errors
    if not errors:
        for keys, own in places:
            for name, what in value_faults(section, section_defaults(section) | shared | own).items():
                yield document.fault((*(keys if name in own else (section,)), name), f"{section}.{name}: {what}")


def _given_faults(document: Document, keys: Keys, settings: Mapping[str, Any], section: str) -> Iterator[Fault]:
    types, defaults = section_types(section), section_defaults(section)
    for name, value in settings.items():
        where = f"{'.'.join(map(str, keys))}.{name}"
        if name not in types:
            yield document.fault((*keys, name), f"setting {where!r} is unknown; {nearest(name, types)}", at_key=True)
        elif wrong := type_fault(where, value, types[name]):
            yield document.fault((*keys, name), wrong)
        elif name in defaults and defaults[name] == value and keys == (section,):
            yield document.fault((*keys, name), f"{where}: {shown(value)} repeats the default; drop it", at_key=True)
