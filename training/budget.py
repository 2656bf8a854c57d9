"""Training in a given time: how many steps fit into it."""

from __future__ import annotations

import re

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
