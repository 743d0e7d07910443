"""A driver that runs quick trials and mirrors them: `python -m tests.mirrored_run HOME PATIENCE_S VARIANT...`.

Every trial's pre-training waits at step 2 for the file `go` in its folder. What happens is told line by line, at last
what MLflow did not take.
"""

import sys
from pathlib import Path

from experiments.planning.plan import distinct_stages
from experiments.scheduler.scheduler import Event, Scheduler
from experiments.stages.trial import Trial
from experiments.store.store import Store
from experiments.store.trials import write_trials
from experiments.tracking import live_recorder as mirror
from tests.experiments.made_trials import trial
from tests.process_engine import ProcessEngine


def made(variant: str) -> Trial:
    return trial(variant, pretrain={"hold_at": 2})


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    home, mirror.PATIENCE_S, mirror.RETRY_S = Path(sys.argv[1]), float(sys.argv[2]), 1.0
    trials = [made(variant) for variant in sys.argv[3:]]
    write_trials(home, [(one, []) for one in trials])
    engine = ProcessEngine()
    with mirror.Recorder(home, trials, say) as told:

        def tell(event: Event) -> None:
            told(event)
            say(f"{event.kind} {event.stage.name}")

        try:
            summary = Scheduler(
                distinct_stages(trials), Store(home), engine, data_root=home / "data", on_event=tell
            ).run()
        finally:
            engine.close()
        say(f"ran {len(summary.done)}")
    say(f"fault {told.error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
