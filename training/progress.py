"""How far a run is, and what it has been through: losses and validations, however often it was interrupted."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

LOG_EVERY = 10  # updates
_MOST_LOSSES = 1000  # that are kept


@dataclass
class Progress:
    """Saved with every checkpoint, and at the end in `training.json`.

    Attributes:
        epoch, step: whole epochs done, and steps done of the one that has begun.
        updates, samples, seconds: of training so far, in all.
        best_ndcg: the highest validation NDCG@10; -1 before the first.
        validations_since_best: how many since then.
        stopped_early: whether it ended as validations were no better.
        validations: of each its `epoch`, `updates` and `ndcg@10`.
        losses: the training loss at updates `losses_every`, `2 * losses_every` and so on; at most a thousand.
        losses_every: updates from one of them to the next.
        budget: `steps`, `epochs`, `step_seconds`, `validation_seconds` that a budget came to; None where there is none.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    samples: int = 0
    seconds: float = 0.0
    best_ndcg: float = -1.0
    validations_since_best: int = 0
    stopped_early: bool = False
    validations: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    losses_every: int = LOG_EVERY
    budget: dict[str, float] | None = None

    def add_loss(self, loss: float) -> None:
        """Note the loss of this update; of a long run's every second, fourth ... is kept."""
        if self.updates % self.losses_every == 0:
            self.losses.append(round(loss, 5))
        if len(self.losses) > _MOST_LOSSES:
            self.losses = self.losses[1::2]
            self.losses_every *= 2

    def add_validation(self, ndcg: float) -> bool:
        """Note a validation; returns whether it is the best so far."""
        self.validations.append({"epoch": self.epoch, "updates": self.updates, "ndcg@10": ndcg})
        is_best = ndcg > self.best_ndcg
        if is_best:
            self.best_ndcg = ndcg
        self.validations_since_best = 0 if is_best else self.validations_since_best + 1
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take all fields from `state_dict()`'s."""
        vars(self).update(state)
