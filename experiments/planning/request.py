"""Request of a run or plan: sweep files at a scale, changed or cut down on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.config.scale import Scale, load_scale
from experiments.config.sweep import Sweep, load_sweep
from experiments.config.yaml_source import Fault, SweepError, nearest
from experiments.engines.base import Inventory
from experiments.planning.cost_model import Rate
from experiments.planning.plan import Plan, make_plan
from experiments.stages.trial import Trial, expand, parse_overrides
from experiments.store.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Some sweeps to be planned and run together."""

    files: Sequence[Path]
    scale: str
    """A scale's name, or its file."""
    set_: Sequence[str] = ()
    """`key=value` for every row of every sweep."""
    only: Sequence[str] = ()
    """Rows to take, of whichever sweep has them; all if empty."""
    home: Path
    """The folder of data, results and records."""
    max_hours: float | None = None
    """Most device hours to spend on all of them; none: as the files' budgets say."""

    def plan(self, inventory: Inventory | None, published: Callable[[], Rate] | None) -> tuple[Plan, float | None]:
        """Return the plan, and the most device hours that it may still cost, if there is a limit.

        Each file's `budget` limits what that file alone would still cost; together they may cost the sum, and one file
        without a budget leaves the sum without a limit.

        Args:
            inventory: what the engine has, to find what it cannot run.
            published: gives the rate that the paper's hours imply.

        Raises:
            SweepError: every fault of the files and the options.
            SmaugError: a source is unknown, or the store contradicts itself.
        """
        scale, sweeps = self.read()
        store = Store(self.home)
        made = make_plan(self.trials(scale, sweeps, self.home / "data"), store, inventory, published=published)
        budgets = [sweep.budget.get(scale.name) for sweep in sweeps]
        allowed = None if None in budgets else sum(budget for budget in budgets if budget is not None)
        return made, allowed if self.max_hours is None else self.max_hours

    def read(self) -> tuple[Scale, list[Sweep]]:
        """The scale, and the sweeps in the order given.

        Raises:
            SweepError: every fault of every file, or two sweeps of one name.
        """
        scale = load_scale(self.scale)
        sweeps: list[Sweep] = []
        faults: list[Fault] = []
        for file in self.files:
            try:
                sweeps.append(load_sweep(file, scale))
            except SweepError as error:
                faults += error.faults
        names = [sweep.name for sweep in sweeps]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            faults.append(Fault("FILE", 0, 0, f"two of the files hold a sweep {name!r}; give each sweep once"))
        if faults:
            raise SweepError(faults)
        return scale, sweeps

    def trials(self, scale: Scale, sweeps: Sequence[Sweep], data_root: Path) -> list[Trial]:
        """Every trial that is asked for, sweep by sweep.

        Raises:
            SweepError: an override or a row's name that does not fit.
            SmaugError: a source is unknown.
        """
        overrides, rows = parse_overrides(self.set_), {row for sweep in sweeps for row in sweep.variants}
        trials: list[Trial] = []
        faults = [
            Fault(f"--only {row}", 0, 0, f"variant {row!r} is unknown; {nearest(row, rows)}")
            for row in self.only
            if row not in rows
        ]
        for sweep in sweeps:
            own = [row for row in self.only if row in sweep.variants]
            if own or not self.only:
                try:
                    trials += expand(sweep, scale, overrides=overrides, only=own, data_root=data_root)
                except SweepError as error:
                    faults += error.faults
        if faults:
            raise SweepError(faults)
        return trials
