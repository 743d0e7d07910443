"""Records stages as one of several drivers: `python -m tests.recorder HOME GO FIRST LAST`, once the file GO exists.

They are the stages FIRST to LAST of the home folder in its order, then the very first, then every trial.
"""

import sys
import time
from pathlib import Path

from experiments.store.store import all_stages
from experiments.store.trials import trial_documents, trial_record
from experiments.tracking.writer import MlflowWriter


def main() -> int:
    home, go, first, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    stages, writer = list(all_stages(home)), MlflowWriter(home)
    go.with_name(f"ready-{first}").touch()
    while not go.exists():
        time.sleep(0.01)
    for facts in [*stages[first:last], stages[0]]:
        writer.record_stage(facts)
    for document in trial_documents(home):
        writer.record_trial(trial_record(home, document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
