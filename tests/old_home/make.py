"""Recipe of the archive `home_487da61.tar.gz`: a home folder with a half-finished sweep, as that commit left it.

In a checkout of the commit whose homes must continue, with its `.venv`: `python -m tests.old_home.make FOLDER`. The row
10 % is done; the row 50 % was stopped by Ctrl-C in its pre-training. The archive holds `store` and `trials`, without
pictures. `tests/experiments/test_old_home.py` continues it.
"""

import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from tests.experiments.smoke import Smoke

STOPPED = ("--only", "50%", "--set", "pretrain.epochs=40")
STOP_AT = 12


def main() -> None:
    smoke = Smoke(Path(sys.argv[1]).resolve())
    smoke.sweep("--only", "10%").check_returncode()
    run = "from experiments.cli import main; main()"
    options = ("run", "sweeps/masking_ratio.yaml", "--scale", str(smoke.scale), "--engine", "inline", *STOPPED)
    driver = subprocess.Popen([sys.executable, "-c", run, *options], cwd=smoke.folder, env=smoke.environment())
    while steps_done(smoke.home) < STOP_AT and driver.poll() is None:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    driver.wait()
    with tarfile.open(smoke.folder / "home.tar.gz", "w:gz") as archive:
        for part in ("store", "trials"):
            archive.add(smoke.home / part, part, filter=lambda member: None if "/examples" in member.name else member)


def steps_done(home: Path) -> int:
    """Steps of the pre-training that is not done."""
    for file in home.glob("store/pretrain/*/attempts/0001/progress.json"):
        if not (file.parents[2] / "result.json").exists():
            return int(json.loads(file.read_text() or "{}").get("step", 0))
    return 0


if __name__ == "__main__":
    main()
