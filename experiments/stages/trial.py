"""Trials of a checked sweep, and the stages that each needs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.scale import Scale
from experiments.config.seeds import Pair, Seeds, read_seeds, seed_faults
from experiments.config.settings import setting_of, with_overrides
from experiments.config.sweep import Sweep, override_faults
from experiments.config.yaml_source import Fault, SweepError, nearest, parse_document
from experiments.stages.graph import cut_stages, resolved, with_seeds
from experiments.stages.stage import Stage, digest
from smaug_core.config import Config
from smaug_core.errors import SettingsError

SEEDS = ("seeds", "seeds.pretrain", "seeds.finetune")
"""Keys of the sweep file, besides settings, that can be given on the command line."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One variant with one pair of seeds."""

    sweep: Sweep
    scale: str
    variant: str
    seed_pretrain: int
    seed_finetune: int
    config: Config
    tree: dict[str, Any]
    """The settings as given, with the corpus slot's name."""
    set_keys: tuple[str, ...]
    """Every setting that any variant changes."""
    stages: tuple[Stage, ...]
    """Parents before children."""
    overrides: tuple[str, ...] = ()
    """Changes of the command line for every row, e.g. `pretrain.epochs=6`."""
    shortened: bool = False
    """Whether it trains for fewer epochs than the scale."""

    @property
    def seed(self) -> str:
        """Both seeds as a label: `0`, or `0/2` where fine-tuning has its own."""
        same = self.seed_pretrain == self.seed_finetune
        return str(self.seed_pretrain) if same else f"{self.seed_pretrain}/{self.seed_finetune}"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints of its stages."""
        return digest([stage.fingerprint for stage in self.stages])

    @property
    def label(self) -> str:
        """Name for people, e.g. `50%, seed 0`."""
        return f"{self.variant}, seed {self.seed}"

    def params(self) -> dict[str, Any]:
        """The values of all settings that any variant changes."""
        return {key: setting_of(self.tree, key) for key in self.set_keys}


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` options; a value is YAML, so `seeds=[4, 7]` is a list.

    Raises:
        SweepError: the options without this form, or with an invalid value.
    """
    overrides: dict[str, Any] = {}
    errors = []
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            errors.append(option_fault(text, "expected key=value, e.g. data.seed=7"))
        elif key in overrides:
            errors.append(option_fault(text, f"{key} is given twice; drop one"))
        else:
            try:
                document = parse_document(value, text)
            except SweepError as refused:
                errors += [option_fault(text, error.message) for error in refused.faults]
            else:
                overrides[key] = document.value
                errors += [option_fault(text, error.message) for error in document.faults]
    if errors:
        raise SweepError(errors)
    return overrides


def expand(
    sweep: Sweep,
    scale: Scale,
    *,
    overrides: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
    data_root: Path | None = None,
) -> list[Trial]:
    """Trials of a sweep, in the order of its rows.

    Args:
        sweep: checked against `scale`.
        scale: fills its slots and sizes.
        overrides: settings from the command line; they hold for every variant.
        only: variants to take; all if empty.
        data_root: where real media are; the digest of what is missing is unknown.

    Raises:
        SweepError: an override or a variant's name that does not fit.
        SmaugError: an unknown source.
    """
    given = dict(overrides or {})
    pairs = _seeds(given, sweep.seeds).pairs
    settings = {key: value for key, value in given.items() if key not in SEEDS}
    errors = [*_option_faults(settings, sweep, scale), *_only_faults(only, sweep)]
    if errors:
        raise SweepError(errors)
    chosen = [variant for variant in sweep.variants if not only or variant in only]
    return [trial for variant in chosen for trial in _trials_of_row(variant, sweep, scale, settings, pairs, data_root)]


def _trials_of_row(
    variant: str, sweep: Sweep, scale: Scale, settings: Mapping[str, Any], pairs: list[Pair], data_root: Path | None
) -> Iterator[Trial]:
    tree = with_overrides(scale.tree, {**settings, **sweep.variants[variant]})
    try:
        config = resolved(scale.config(tree, sweep.tasks), zero_shot=sweep.zero_shot)
    except SettingsError as error:
        raise SweepError(Fault("--set", 0, 0, f"{where}: {what}") for where, what in error.faults) from error
    chain = cut_stages(config, scale.resources, *pairs[0], data_root)
    set_keys = tuple(sorted({key for changes in sweep.variants.values() for key in changes}))
    overrides = tuple(f"{key}={value}" for key, value in sorted(settings.items()))
    shortened = has_fewer_epochs(tree, scale.tree)
    known: dict[Any, Stage] = {}
    for seed_pretrain, seed_finetune in pairs:
        yield Trial(
            sweep=sweep,
            scale=scale.name,
            variant=variant,
            seed_pretrain=seed_pretrain,
            seed_finetune=seed_finetune,
            config=config,
            tree=tree,
            set_keys=set_keys,
            overrides=overrides,
            shortened=shortened,
            stages=tuple(with_seeds(chain, seed_pretrain, seed_finetune, known)),
        )


def with_settings(scale: Scale, overrides: Mapping[str, Any]) -> Scale:
    """Return a scale with settings replaced.

    Raises:
        SweepError: every setting that is unknown or not allowed.
    """
    errors = [
        option_fault(f"{key}={overrides[key]}", what)
        for key, what, _ in override_faults(overrides, scale, scale.datasets)
    ]
    if errors:
        raise SweepError(errors)
    return scale.with_overrides(overrides)


def config_of(scale: Scale, overrides: Mapping[str, Any]) -> Config:
    """Return a scale's configuration with settings replaced; raises as `with_settings` does."""
    return with_settings(scale, overrides).base_config()


def has_fewer_epochs(tree: Mapping[str, Any], usual: Mapping[str, Any]) -> bool:
    """Return whether any `epochs` of a settings tree is below the one at the same place of another."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            if has_fewer_epochs(value, usual[key]):
                return True
        elif key == "epochs" and key in usual and value < usual[key]:
            return True
    return False


def _seeds(given: Mapping[str, Any], own: Seeds) -> Seeds:
    """Return the seeds of the command line, else of the file; a list of one training replaces the file's list."""
    chosen = {key: given[key] for key in SEEDS if key in given}
    errors = [
        option_fault(f"{key}={value}", what)
        for key, value in chosen.items()
        for _, what in seed_faults({key.removeprefix("seeds."): value} if "." in key else value, sign="=")
    ]
    if "seeds" in chosen and len(chosen) > 1:
        errors.append(
            option_fault(f"seeds={chosen['seeds']}", "seeds.pretrain or seeds.finetune is given too; drop one")
        )
    if own.full and len(chosen) == 1 and "seeds" not in chosen:
        ((key, value),) = chosen.items()
        what = "the sweep file has full trials; give both seeds.pretrain and seeds.finetune, or seeds"
        errors.append(option_fault(f"{key}={value}", what))
    if errors:
        raise SweepError(errors)
    if "seeds" in chosen:
        return read_seeds(chosen["seeds"])
    lists = {key.removeprefix("seeds."): tuple(value) for key, value in chosen.items()}
    return replace(own, full=False, **lists) if lists else own


def _option_faults(settings: Mapping[str, Any], sweep: Sweep, scale: Scale) -> Iterable[Fault]:
    swept = {key for variant in sweep.variants.values() for key in variant}
    for key, what, _ in override_faults(settings, scale, sweep.tasks, also=SEEDS):
        yield option_fault(f"{key}={settings[key]}", what)
    for key in sorted(settings.keys() & swept):
        yield option_fault(f"{key}={settings[key]}", f"{key} is what the sweep varies; choose rows with --only")


def _only_faults(only: Sequence[str], sweep: Sweep) -> Iterable[Fault]:
    for variant in only:
        if variant not in sweep.variants:
            message = f"variant {variant!r} is unknown; {nearest(variant, sweep.variants)}"
            yield Fault(f"--only {variant}", 0, 0, message)


def option_fault(text: str, message: str) -> Fault:
    """Return an error of the option `--set TEXT`."""
    return Fault(f"--set {text}", 0, 0, message)
