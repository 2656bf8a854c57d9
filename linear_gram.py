"""Linear layers of T5: without gradients, layers of one input at once, weights laid out for the CPU."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from .elementwise_gram import dropout, norm

_FEW_ROWS = 64  # for which a weight's layout is chosen; more rows are as fast with it

_packed_weights = WeakTensorKeyDictionary()  # first weight -> versions of all, and all in the order that oneDNN reads


def project(states: torch.Tensor, *linears: nn.Module) -> tuple[torch.Tensor, ...]:
    """What each linear layer makes of the same states.

    Without gradients, in float32 on a CPU, the layers are one product, of weights that are laid out once for oneDNN:
    for few rows that is twice as fast. A weight that has changed since is laid out anew.

    Args:
        states (..., d).
        linears: layers of d inputs; always the same ones together.
    """
    if not _runs_packed(states, linears):
        return tuple(linear(states) for linear in linears)
    weights = [linear.weight for linear in linears]
    versions = [weight._version for weight in weights]
    known, packed = _packed_weights.get(weights[0], (None, None))
    if known != versions:
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights).detach(), _FEW_ROWS)
        _packed_weights[weights[0]] = versions, packed
    found = torch.ops.mkldnn._linear_pointwise(states, packed, None, "none", [], "")
    return found.split([len(weight) for weight in weights], dim=-1)


def _runs_packed(states: torch.Tensor, linears: tuple[nn.Module, ...]) -> bool:
    if (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or states.device.type != "cpu"
        or states.dtype != torch.float32
    ):
        return False
    if torch.is_autocast_enabled("cpu") or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    return all(
        type(linear) is nn.Linear  # adapters and quantised layers have their own forward
        and linear.bias is None
        and linear.weight.dtype == torch.float32
        and not linear.weight.is_inference()
        for linear in linears
    )


def feed_forward(sublayer: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """What a `T5LayerFF`, gated or not, adds to the states."""
    dense, normed = sublayer.DenseReluDense, norm(sublayer.layer_norm, states)
    inner, outer = dense.dropout, sublayer.dropout
    if hasattr(dense, "wi_0"):
        gate, hidden = project(normed, dense.wi_0, dense.wi_1)
        hidden = dropout(dense.act(gate) * hidden, inner.p, inner.training)
    else:
        (hidden,) = project(normed, dense.wi)
        rectify = isinstance(dense.act, nn.ReLU)
        hidden = dropout(hidden if rectify else dense.act(hidden), inner.p, inner.training, rectify)
    return dropout(project(hidden, dense.wo)[0], outer.p, outer.training)


__all__ = ["feed_forward", "project"]
