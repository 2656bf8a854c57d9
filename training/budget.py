"""Training in a given time: how many steps fit into it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_of(budget: str) -> float:
    """The seconds of a time such as `1h30m`.

    Raises:
        ValueError: it is none; the message says what to write.
    """
    found = _DURATION.fullmatch(str(budget))
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < 1e9:
        raise ValueError(f"budget is {str(budget)!r}; it must be a time such as 2h, 90m, 600s or 1h30m, with its unit")
    return total


def steps_within(seconds: float, step: float, validation: float, every: int) -> int:
    """The most steps, at least one, that fit into a time with a validation after `every` of them and at the end.

    Example:
        >>> steps_within(100, step=1, validation=5, every=20), steps_within(90, step=1, validation=5, every=20)
        (80, 70)
    """
    rounds, left = divmod(seconds, every * step + validation)
    return max(int(rounds) * every + max(int((left - validation) / step), 0), 1)


def round_ends(epochs: Iterable[int], total: int, first: int | None) -> list[int]:
    """The steps after which the rounds of a training end, in order; the last is `total`.

    The first round is of `first` epochs, and each other one of as many as there have been before it. The last takes
    what is left, and is about as long as all before it or longer. Without `first` there is one round.

    Args:
        epochs: the steps of each epoch.
        total: steps in all.
        first: epochs of the first round.

    Example:
        >>> round_ends([10] * 20, 200, first=3), round_ends([10] * 20, 40, first=3), round_ends([10] * 20, 200, None)
        ([30, 60, 200], [40], [200])
    """
    if first is None:
        return [total]
    ends: list[int] = []
    for epoch, steps in enumerate(accumulate(epochs), start=1):
        if steps > 0.52 * total:  # half; epochs differ by some steps
            break
        if epoch == first << len(ends):
            ends.append(steps)
    return [*ends, total]
