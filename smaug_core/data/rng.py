"""Random draws that depend on what they are for, never on the order or the device they are made on."""

from hashlib import blake2b

import numpy as np


def draws_for(seed: int, epoch: int, sample: str, purpose: str) -> np.random.Generator:
    """The generator of one sample's draws for one purpose (`frames`, `crop`, `mask`, ...) in one epoch.

    The same key gives the same draws in any process, after any interruption, at any world size.
    """
    key = blake2b(f"{seed}|{epoch}|{purpose}|{sample}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
