"""Muon, the optimizer of weight matrices, with AdamW for all other weights.

Sources: Jordan and others, Muon: An optimizer for hidden layers in neural networks, 2024; Liu and others, Muon is
scalable for LLM training, arXiv 2502.16982, for the scale at which AdamW's learning rates and weight decays hold.
`torch.optim.Muon` computes in bfloat16, which a processor that does not know it emulates: there its step takes longer
than the model's.
"""

from __future__ import annotations

from collections import defaultdict

import torch

MOMENTUM = 0.95
_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)  # of the iteration; they bring all singular values near 1
_SCALE = 0.2  # the root mean square of what AdamW changes in a weight, over the learning rate


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `"is_matrices": True`, whose weights take steps with all singular values alike.

    Args:
        groups: as those of AdamW, each with `is_matrices`; the weights of such a group are (m, n).
        options: of AdamW.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
        >>> muon = Muon([{"params": [weight], "is_matrices": True}], lr=0.1, weight_decay=0.0)
        >>> weight.grad = torch.tensor([[1.0, 0, 0], [0, 100, 0]])
        >>> muon.step()
        >>> (10 * weight.detach().abs()).round(decimals=1)  # the smaller gradient counts as much
        tensor([[0.2000, 0.0000, 0.0000],
                [0.0000, 0.2000, 0.0000]])
    """

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all weights that have a gradient; gives what the closure does, if there is one."""
        groups, loss = self.param_groups, None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in groups:
            if group["is_matrices"]:
                self._step(group)
        try:
            self.param_groups = [group for group in groups if not group["is_matrices"]]
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step(self, group: dict) -> None:
        alike = defaultdict(list)  # matrices of one shape are multiplied together
        for weight in group["params"]:
            if weight.grad is not None:
                alike[weight.shape].append(weight)
        for (rows, columns), weights in alike.items():
            updates = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state.update(step=torch.tensor(0.0), momentum=torch.zeros_like(weight))
                state["step"] += 1
                state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                updates.append(weight.grad.lerp(state["momentum"], MOMENTUM))
            size = group["lr"] * _SCALE * max(rows, columns) ** 0.5
            for weight, update in zip(weights, orthogonal(torch.stack(updates)), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (N, m, n) with the same singular vectors, and singular values near 1, by a Newton-Schulz iteration."""
    is_tall = matrices.shape[1] > matrices.shape[2]
    matrices = matrices.mT if is_tall else matrices
    matrices = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(_STEPS):
        square = matrices @ matrices.mT
        matrices = torch.baddbmm(
            matrices, torch.baddbmm(square, square, square, beta=second, alpha=third), matrices, beta=first
        )
    return matrices.mT if is_tall else matrices
