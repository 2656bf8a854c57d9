"""A picture of a run: its loss and its validations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..common.extras import needs
from ..common.files import new_file

LOSS_COLOUR, NDCG_COLOUR = "#3566a8", "#c4572b"
_SMOOTHED_OVER = 20  # points of the loss


def plot_training(progress: dict[str, Any], path: Path) -> None:
    """Draw a run, the fields of its [`Progress`], into an SVG file that needs nothing else; always the same bytes.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with needs("plots", path.name):
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    with matplotlib.rc_context({"svg.hashsalt": "gram", "font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(7, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_losses(left, np.array(progress["losses"]), progress["losses_every"])
        _draw_validations(right, progress["validations"])
        for axes in (left, right):
            axes.set_xlabel("optimizer step")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.3)
        with new_file(path) as part:
            FigureCanvasSVG(figure).print_svg(part, metadata={"Date": None})


def _draw_losses(axes, losses: np.ndarray, every: int) -> None:
    axes.set_title("training loss")
    steps = np.arange(1, len(losses) + 1) * every
    if len(losses) < 2 * _SMOOTHED_OVER:
        axes.plot(steps, losses, color=LOSS_COLOUR, marker="." if len(losses) == 1 else None)
        return
    smooth = np.convolve(losses, np.full(_SMOOTHED_OVER, 1 / _SMOOTHED_OVER), mode="valid")
    axes.plot(steps, losses, color=LOSS_COLOUR, alpha=0.25, linewidth=0.8)
    axes.plot(steps[_SMOOTHED_OVER - 1 :], smooth, color=LOSS_COLOUR, label=f"mean of {_SMOOTHED_OVER} points")
    axes.legend(frameon=False)


def _draw_validations(axes, validations: list[dict[str, float]]) -> None:
    axes.set_title("validation NDCG@10")
    steps, values = ([entry[name] for entry in validations] for name in ("updates", "ndcg@10"))
    axes.plot(steps, values, color=NDCG_COLOUR, marker="o", markersize=3)
    best = int(np.argmax(values))
    axes.plot(steps[best], values[best], color=NDCG_COLOUR, marker="o", markersize=7, fillstyle="none")
    axes.annotate(f"{values[best]:.4f}", (steps[best], values[best]), (0, 6), textcoords="offset points", ha="center")
    axes.set_ylim(0, 1.2 * max(max(values), 1e-6))
