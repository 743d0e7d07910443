"""Work of loader processes in tests; it imports nothing of the platform."""

import os
import signal
import sys

import torch

from smaug_core.errors import SmaugError


def describe(number: int) -> tuple[int, int, bool]:
    """Process, its threads of torch, and whether the platform is loaded in it."""
    return os.getpid(), torch.get_num_threads(), any(name.startswith("experiments") for name in sys.modules)


def odd_fails(number: int) -> int:
    if number % 2:
        raise SmaugError(f"number {number}: expected an even one")
    return number


def fall(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave(number: int) -> int:
    os._exit(9)
