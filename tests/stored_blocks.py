"""Blocks of rows in files, for worker processes: nothing else is imported there."""

import os
import signal

import numpy as np

DEADLY = 7


def load(folder, i):
    """A block. Who comes first to the deadly one, while there is a fuse, is killed."""
    if i == DEADLY:
        try:
            (folder / "fuse").rename(folder / "burnt")
        except FileNotFoundError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{i} read by {os.getpid()}").touch()
    return np.load(folder / f"{i}.npy")
