"""Trackers of Accelerate: which are asked for and installed, and settings in a form that all of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

LOGS_FOLDER = "logs"  # inside a run's folder; of trackers that write files
PROJECT = "gram"


def tracker_names(report_to: str | None) -> list[str]:
    """The trackers that `report_to` names, separated by commas; `all` are those that are installed.

    Raises:
        ValueError: an unknown tracker, or one whose package is not installed.
    """
    asked = (report_to or "").replace(",", " ").split()
    installed = [str(tracker) for tracker in get_available_trackers()]
    for name in asked:
        if name != "all" and name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(
                f"report_to: no tracker {name!r}; choose of all, {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}"
            )
        if name not in installed and not (name == "all" and installed):
            package = "tensorboard" if name == "all" else name
            raise ValueError(f"report_to: the package of the tracker {name!r} is missing; run `pip install {package}`")
    return installed if "all" in asked else list(dict.fromkeys(asked))


def tracker_options(names: list[str], output_dir: Path) -> dict[str, dict[str, Any]]:
    """Arguments of `Accelerator.init_trackers` that call a run what its folder is called."""
    return {name: {"name": output_dir.resolve().name} for name in names if name in ("wandb", "trackio")}


def loggable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as numbers, truth values and text, which every tracker takes; None as the word that flags know."""
    plain = bool, int, float, str
    return {
        name: value if isinstance(value, plain) else "none" if value is None else str(value)
        for name, value in settings.items()
    }


__all__ = ["LOGS_FOLDER", "PROJECT", "loggable", "tracker_names", "tracker_options"]
