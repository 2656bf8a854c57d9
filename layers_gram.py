"""Dropout and T5's layer norm for training on a CPU, where torch's own take as long as matrix products.

And what else is needed to run a module's arithmetic by hand: whether that gives what calling the module gives.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5LayerNorm

_CAPTURING = "transformers.utils.output_capturing"
_LEVELS = 1 << 16  # probabilities of dropout are multiples of 1 / _LEVELS


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module does more than its class says: hooks, or another `forward` put in its place."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    # Those by which transformers returns attentions stay once they were asked for, and do nothing otherwise.
    hooks = (hook for hooks in kinds for hook in hooks.values() if getattr(hook, "__module__", None) != _CAPTURING)
    return "forward" in module.__dict__ or next(hooks, None) is not None


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is known by its weight: of this very class, without hooks, and the weight an ordinary tensor."""
    return type(module) is kind and not has_hooks(module) and type(module.weight) in (torch.Tensor, nn.Parameter)


def tensors_of(weight) -> list[torch.Tensor]:
    """The plain tensors of an entry of a state dictionary: of a quantised weight those that it is made of.

    Raises:
        ValueError: the entry is no tensor, as of layers that `torch.ao` has quantised.
    """
    if not isinstance(weight, torch.Tensor):
        raise ValueError(
            "torch.ao has quantised the model in memory, and its weights can be neither compared nor saved; "
            "do this with the model as it was before"
        )
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight.detach()]
    names, _ = weight.__tensor_flatten__()
    return [tensor for name in names for tensor in tensors_of(getattr(weight, name))]


def has_hooks_between(stack: nn.Module) -> bool:
    """Whether a T5 stack must be called as it is: a module that has no weights of its own has hooks.

    Those with weights, projections, embeddings and norms, are called in any case.
    """
    return any(has_hooks(module) for module in stack.modules() if not module._parameters)


def clamped(states: torch.Tensor) -> torch.Tensor:
    """Sums of states; in float16 held within its range, as T5's blocks do."""
    if states.dtype != torch.float16:
        return states
    most = torch.finfo(states.dtype).max - 1000
    return states.clamp(-most, most)


def dropout(states: torch.Tensor, p: float, training: bool, rectify: bool = False) -> torch.Tensor:
    """`F.dropout`, of the states or of `relu(states)`.

    On a CPU four units share one random number of 64 bits, which is several times faster than a draw for each; the
    probability is then rounded to a multiple of 2**-16, and the scale to match. Draws come from torch's generator.
    `rectify`: apply ReLU first.
    """
    if training and p > 0 and states.device.type == "cpu" and not torch.compiler.is_compiling():
        return _Dropout.apply(states, round(p * _LEVELS), rectify)
    return F.dropout(F.relu(states) if rectify else states, p, training)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, level, rectify):
        words = torch.empty(-(-states.numel() // 4), dtype=torch.int64, device=states.device).random_(-(1 << 63), None)
        draws = words.view(torch.int16)[: states.numel()].view(states.shape)
        keep = draws >= level - _LEVELS // 2
        if rectify:
            keep &= states > 0
        ctx.scale = _LEVELS / (_LEVELS - level)
        ctx.save_for_backward(keep)
        return (states * keep).mul_(ctx.scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        (keep,) = ctx.saved_tensors
        return (gradient * keep).mul_(ctx.scale), None, None


def norm(layer_norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
    """T5's layer norm, the root mean square alone, in few passes over the states (..., d)."""
    if not is_plain(layer_norm, T5LayerNorm) or states.dtype != layer_norm.weight.dtype:  # or mixed precision
        return layer_norm(states)
    weight, eps = layer_norm.weight, layer_norm.variance_epsilon
    if states.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.rms_norm(states, states.shape[-1:], weight, eps)
    return _Norm.apply(states, weight, eps)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, eps):
        inverse = torch.linalg.vector_norm(states, dim=-1, keepdim=True).square_().div_(states.shape[-1])
        inverse = inverse.add_(eps).rsqrt_()  # (..., 1)
        ctx.save_for_backward(states, weight, inverse)
        return (states * inverse).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        states, weight, inverse = ctx.saved_tensors
        normed = states * inverse
        of_weight = torch.linalg.vecdot(gradient.flatten(0, -2), normed.flatten(0, -2), dim=0)
        gradient = gradient * weight
        shared = torch.linalg.vecdot(gradient, normed, dim=-1).unsqueeze(-1).div_(-states.shape[-1])  # (..., 1)
        return gradient.addcmul_(normed, shared).mul_(inverse), of_weight, None
