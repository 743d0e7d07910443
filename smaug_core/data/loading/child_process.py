"""Processes that work for another one, and end with it."""

import os
import signal
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and exit when it dies: a pool's workers would wait for ever for a killed parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
