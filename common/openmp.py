"""How threads of OpenMP wait for each other, which torch reads when it is loaded."""

from __future__ import annotations

import os

# They look for their next piece of work for some microseconds, and sleep if there is none. To be woken takes longer
# than most pieces do; but one that never sleeps takes a core from the other programs, and they from all of its kind.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


def wait_briefly() -> None:
    """Let threads sleep soon while they wait, unless the environment says how they do."""
    if not WAITING.keys() & os.environ.keys():
        os.environ.update(WAITING)
