"""Packed passages against T5's own encoder, the chunked loss, and batches from worker processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers.models.t5.modeling_t5 import T5LayerNorm

from gram import GramConfig, GramForConditionalGeneration
from gram import training_gram as form
from gram.data import training_part
from gram.encoding_gram import PackedLayout, encode_packed
from gram.layers_gram import dropout, norm
from gram.training.steps import TrainingSteps

SHAPE = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}


def new_model(**fields) -> GramForConditionalGeneration:
    torch.manual_seed(0)
    return GramForConditionalGeneration(GramConfig(**{**SHAPE, **fields}))


def passages(lengths: list[int], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    longest = max(max(lengths), 1)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if left else mask
    return torch.randint(2, 60, mask.shape).masked_fill(~mask, 0), mask.long()


def gradients_of(model, states, weight) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (states * weight).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_like(found: torch.Tensor, true: torch.Tensor, name: str = "") -> None:
    assert (found - true).abs().max() <= 1e-5 * true.abs().max() + 1e-12, name


@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any),
    gated=st.booleans(),
    checkpointing=st.booleans(),
    left=st.booleans(),
)
def test_packed_states_and_gradients_are_those_of_the_padded_encoder(lengths, gated, checkpointing, left):
    model = new_model(feed_forward_proj="gated-gelu" if gated else "relu")
    input_ids, mask = passages(lengths, left)
    padded = model.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state[mask.bool()]
    weight = torch.randn_like(padded)
    expected = gradients_of(model, padded, weight)
    if checkpointing:
        model.gradient_checkpointing_enable()
    packed = encode_packed(model.encoder, input_ids, mask)
    assert_like(packed, padded)
    with torch.no_grad():
        assert_like(encode_packed(model.encoder, input_ids, mask), padded)
    found = gradients_of(model, packed, weight)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_like(found[name], gradient, name)


@given(lengths=st.lists(st.integers(0, 300), max_size=40))
def test_a_layout_holds_every_token_once_and_pads_little(lengths):
    layout = PackedLayout(lengths)
    assert torch.equal(layout.order[layout.inverse], torch.arange(sum(lengths)))
    assert sum(bucket.rows.stop - bucket.rows.start for bucket in layout.buckets) == sum(lengths)
    assert sum(bucket.count for bucket in layout.buckets) == sum(length > 0 for length in lengths)
    packed = torch.arange(sum(lengths), dtype=torch.float)[:, None]
    for bucket in layout.buckets:
        rows = packed[bucket.rows]
        assert torch.equal(bucket.unpad(bucket.pad(packed)), rows)
        assert bucket.count * bucket.length - len(rows) <= bucket.count * max(bucket.length // 8, 7)


def test_padding_within_a_passage_is_refused():
    input_ids, mask = passages([4, 5])
    mask[1, 2] = 0
    with pytest.raises(ValueError, match="`attention_mask`: passage 1 has padding between its tokens"):
        encode_packed(new_model().encoder, input_ids, mask)


@pytest.mark.parametrize("num_items", [None, 7])
def test_the_loss_in_chunks_is_the_loss_of_all_logits(monkeypatch, num_items):
    model, states = new_model(), torch.randn(4, 5, 16)
    labels = torch.randint(2, 60, (4, 5)).masked_fill(torch.rand(4, 5) < 0.3, -100)
    weight = torch.ones(())
    reduction = {"reduction": "sum"} if num_items else {}
    whole = F.cross_entropy(model._logits(states).flatten(0, 1), labels.flatten(), **reduction) / (num_items or 1)
    expected = gradients_of(model, whole, weight)
    monkeypatch.setattr(form, "_LOGITS_AT_ONCE", 3 * 60)
    chunked = form.target_loss(model, states, labels, num_items)
    torch.testing.assert_close(chunked, whole)
    assert_like(gradients_of(model, chunked, weight)["shared.weight"], expected["shared.weight"])


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_micro_batches_and_idle_shares_add_up_to_one_step(data, tokenizer, feed_forward):
    model = new_model(vocab_size=512, max_history=8, feed_forward_proj=feed_forward)
    training = training_part(data)

    def learnt(num_processes, tokens):
        model.zero_grad()
        total, count = 0.0, 0
        for process in range(num_processes):
            steps = TrainingSteps(training, tokenizer, 24, 64, 4, 0, 0, process, num_processes, tokens)
            micro_batches, num_tokens = steps[0]
            for micro_batch in micro_batches:
                loss = model(**micro_batch, num_items_in_batch=num_tokens).loss
                loss.backward()
                total, count = total + loss.item(), count + 1
        return total, count, {name: weight.grad.clone() for name, weight in model.named_parameters()}

    loss, count, expected = learnt(1, 1 << 20)
    for num_processes, tokens in ((1, 1), (3, 600), (31, 600)):  # 31: more processes than groups
        again, more, found = learnt(num_processes, tokens)
        assert more > count
        assert again == pytest.approx(loss, rel=1e-5)
        for name, gradient in expected.items():
            assert_like(found[name], gradient, name)


def test_bf16_autocast_is_near_float32_and_leaves_weights_float32(data, tokenizer):
    model = new_model(vocab_size=512, max_history=8)
    micro_batches, num_tokens = TrainingSteps(training_part(data), tokenizer, 24, 64, 4, 0, 0)[0]
    exact = sum(model(**batch, num_items_in_batch=num_tokens).loss.item() for batch in micro_batches)
    with torch.autocast("cpu", torch.bfloat16):
        losses = [model(**batch, num_items_in_batch=num_tokens).loss for batch in micro_batches]
    torch.stack(losses).sum().backward()
    assert sum(loss.item() for loss in losses) == pytest.approx(exact, rel=0.02)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert all(weight.grad.dtype == torch.float32 and weight.grad.isfinite().all() for weight in model.parameters())


def tensors(batch) -> list[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        return [batch]
    values = batch.values() if isinstance(batch, dict) else batch
    return [tensor for value in values if not isinstance(value, int) for tensor in tensors(value)]


def test_worker_processes_give_the_batches_of_none(data, tokenizer):
    steps = TrainingSteps(training_part(data), tokenizer, 16, 16, 4, 0, 0)
    alone, shared = (list(DataLoader(steps, batch_size=None, num_workers=workers)) for workers in (0, 2))
    assert len(alone) == len(shared) == len(steps)
    for one, other in zip(tensors(alone), tensors(shared), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rectify", [False, True])
def test_dropout_keeps_the_mean_and_the_gradient_of_what_it_keeps(rectify):
    torch.manual_seed(0)
    states = torch.randn(401, 1001, requires_grad=True)
    dropped = dropout(states, 0.1, training=True, rectify=rectify)
    kept, plain = dropped != 0, torch.relu(states) if rectify else states
    scale = 1 / (1 - 0.1)
    assert torch.allclose(dropped[kept], plain[kept] * scale, rtol=1e-4)
    positive = plain != 0
    assert abs(kept[positive].float().mean() - 0.9) < 3e-3
    assert (kept.float().mean(0).std() < 0.05) and (kept.float().mean(1).std() < 0.05)  # no row or column is favoured
    dropped.sum().backward()
    assert torch.allclose(states.grad, torch.where(kept, scale, 0.0), rtol=1e-4)
    torch.manual_seed(0)
    again = dropout(torch.randn(401, 1001), 0.1, training=True, rectify=rectify)
    assert torch.equal(again, dropped.detach())
    assert dropout(states, 0.1, training=False) is states


@pytest.mark.parametrize("shape", [(5, 32), (2, 7, 32)])
def test_the_norm_and_its_gradients_are_t5s(shape):
    torch.manual_seed(0)
    layer = T5LayerNorm(32)
    torch.nn.init.normal_(layer.weight)
    states, gradient = torch.randn(shape, dtype=torch.float32, requires_grad=True), torch.randn(shape)
    results = []
    for run in (layer, lambda states: norm(layer, states)):
        states.grad = layer.weight.grad = None
        found = run(states)
        found.backward(gradient)
        results.append((found.detach(), states.grad.clone(), layer.weight.grad.clone()))
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
