"""The optimizer Muon: torch's own on matrices, AdamW on everything else, and runs that go on where they were."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gram.training.muon import Muon, orthogonal


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_orthogonal_matrices_keep_singular_vectors_and_make_values_alike(count, rows, columns, seed):
    draw = torch.Generator().manual_seed(seed)
    matrices = torch.randn(count, rows, columns, generator=draw, dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    found = left.mT @ orthogonal(matrices) @ right.mT  # diagonal, where the singular vectors are the same
    ours = found.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(ours))
    large = values > 0.05 * values[:, :1]  # five iterations bring these up
    assert ours[large].min() > 0.3
    assert ours.max() < 1.3


def model_and_gradients(steps=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 9, bias=False))
    return model, [[torch.randn_like(weight) for weight in model.parameters()] for _ in range(steps)]


def groups_of(model):
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    others = [weight for weight in model.parameters() if weight.ndim < 2]
    return [{"params": matrices, "is_matrices": True}, {"params": others, "is_matrices": False}]


def step(optimizer, model, gradients):
    for weight, gradient in zip(model.parameters(), gradients, strict=True):
        weight.grad = gradient.clone()
    optimizer.step()


def test_matrices_take_the_steps_of_torchs_muon_and_all_else_those_of_adamw():
    model, gradients = model_and_gradients()
    other, options = copy.deepcopy(model), {"lr": 0.05, "weight_decay": 0.1}
    ours = Muon(groups_of(model), **options)
    matrices, others = (group["params"] for group in groups_of(other))
    theirs = torch.optim.Muon(matrices, **options, adjust_lr_fn="match_rms_adamw"), torch.optim.AdamW(others, **options)
    for given_now in gradients:
        step(ours, model, given_now)
        for weight, gradient in zip(other.parameters(), given_now, strict=True):
            weight.grad = gradient.clone()
        for optimizer in theirs:
            optimizer.step()
    for weight, expected in zip(model.parameters(), other.parameters(), strict=True):
        if weight.ndim == 2:  # torch's iterates in bfloat16
            torch.testing.assert_close(weight, expected, rtol=0.05, atol=0.02)
        else:
            assert torch.equal(weight, expected)


def test_an_optimizer_that_was_saved_goes_on_bit_by_bit():
    model, gradients = model_and_gradients()
    optimizer = Muon(groups_of(model), lr=0.05)
    step(optimizer, model, gradients[0])
    again = copy.deepcopy(model)
    resumed = Muon(groups_of(again), lr=0.05)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for given_now in gradients[1:]:
        step(optimizer, model, given_now)
        step(resumed, again, given_now)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


@pytest.mark.parametrize("is_matrices", [True, False])
def test_a_weight_without_gradient_stays_and_a_closure_is_asked(is_matrices):
    weights = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Muon([{"params": weights, "is_matrices": is_matrices}], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weights[0].sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 4
    assert (weights[0] < 1).any()
    assert torch.equal(weights[1], torch.ones(2, 2))
