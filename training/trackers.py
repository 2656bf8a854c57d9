"""Trackers of Accelerate: which are asked for and installed, and settings in a form that all of them take."""

from __future__ import annotations

from typing import Any

from ..common.extras import needs


def tracker_names(report_to: str | None) -> list[str]:
    """The trackers that `report_to` names, separated by commas; `all` are those that are installed.

    Raises:
        ValueError: an unknown tracker, or one whose package is not installed, which Accelerate would leave out.
    """
    asked = (report_to or "").replace(",", " ").split()
    if not asked:
        return []
    with needs("train", "report_to"):
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = [str(tracker) for tracker in get_available_trackers()]
    for name in asked:
        if name != "all" and name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ValueError(f"report_to: no tracker {name!r}; choose of all, {known}")
        if name not in installed and not (name == "all" and installed):
            package = "tensorboard" if name == "all" else name
            raise ValueError(f"report_to: the package of the tracker {name!r} is missing; run `pip install {package}`")
    return installed if "all" in asked else list(dict.fromkeys(asked))


def loggable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as numbers, truth values and text, which every tracker takes; None as the word that flags know."""
    named = {name: "none" if value is None else value for name, value in settings.items()}
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in named.items()}
