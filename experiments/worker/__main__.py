"""Entry point of a stage's process: `python -m experiments.worker STAGE_DIR`."""

import os
import sys
from contextlib import suppress

from experiments.worker.main import main

if __name__ == "__main__":
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the log may lie on a full disk
            stream.flush()
    os._exit(status)  # else Python flushes again, and a disk that is full turns the exit code into 120
