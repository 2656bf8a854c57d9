"""The model: parity with an independent implementation, its two forms, initialisation, backbones, saving."""

import copy
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

from gram import GramConfig, GramForConditionalGeneration, ItemTrie
from gram.data import training_part
from gram.training.steps import TrainingSteps

FIXTURES = Path(__file__).parents[1].parent / "shared" / "fixtures"
SMALL = {"vocab_size": 300, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}

needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="no ../shared/fixtures")


def relative_error(found: torch.Tensor, true: torch.Tensor) -> float:
    return ((found - true).abs().max() / true.abs().max()).item()


@pytest.fixture(scope="module", params=["micro_seed0", "micro_seed1", "micro_reallike_seed3"])
def case(request):
    tensors = load_file(FIXTURES / f"{request.param}.safetensors")
    return json.loads((FIXTURES / f"{request.param}.json").read_text()), tensors


def fixture_model(case, attention="sdpa") -> GramForConditionalGeneration:
    facts, tensors = case
    config = GramConfig(**facts["config"])
    model = GramForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
    weights = {name[3:]: value for name, value in tensors.items() if name.startswith("hf/")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert {name.split(".")[-2] for name in missing} <= {"embed_tokens", "lm_head"}  # tied to `shared`
    return model


@needs_fixtures
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_states_logits_loss_and_gradients_are_those_of_an_independent_implementation(case, attention):
    model, tensors = fixture_model(case, attention), case[1]
    inputs = {name: tensors[f"in/{name}"] for name in ("input_ids", "attention_mask", "labels")}
    output = model(**inputs)
    output.loss.backward()
    real = inputs["attention_mask"].flatten(1).bool()
    assert relative_error(output.encoder_last_hidden_state[real], tensors["out/encoder_last_hidden_state"][real]) < 1e-5
    assert relative_error(output.logits, tensors["out/logits"]) < 1e-5
    assert relative_error(output.loss, tensors["out/loss"]) < 1e-5
    parameters = dict(model.named_parameters(remove_duplicate=False))
    gradients = {name[5:]: value for name, value in tensors.items() if name.startswith("grad/")}
    assert gradients
    for name, gradient in gradients.items():
        assert relative_error(parameters[name].grad, gradient) < 1e-5, name


@needs_fixtures
@pytest.mark.parametrize("num_beams", [1, 2, 10, 50, 200, 250])
def test_scores_are_the_exhaustive_truth_and_enough_beams_give_the_exhaustive_ranking(case, num_beams):
    facts, tensors = case
    model, trie = fixture_model(case), ItemTrie.from_sequences(facts["candidates"])
    output = model.generate(
        tensors["in/input_ids"],
        tensors["in/attention_mask"],
        item_trie=trie,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        return_dict_in_generate=True,
    )
    truth = tensors["truth/normalised"]
    scores = output.sequences_scores.view(len(truth), num_beams)
    found = min(num_beams, truth.shape[1])
    items = output.item_indices[:, :found]
    assert all(len(set(row)) == found for row in items.tolist())
    torch.testing.assert_close(scores[:, :found], truth.gather(1, items), rtol=1e-5, atol=1e-5)
    assert (output.item_indices[:, found:] == -1).all()
    assert torch.isneginf(scores[:, found:]).all()
    if num_beams >= truth.shape[1]:
        assert torch.equal(items, truth.argsort(descending=True, stable=True))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_grouped_form_gives_loss_and_gradients_of_the_plain_form(data, tokenizer, checkpointing):
    torch.manual_seed(0)
    model = GramForConditionalGeneration(GramConfig(**{**SMALL, "vocab_size": 512}, max_history=8, dropout_rate=0.0))
    model = model.double()  # in float32 sums differ by their order
    model.position_embedding.weight.data.mul_(50)  # as large as the encoder's states, so that places matter
    training = training_part(data)
    steps = TrainingSteps(training, tokenizer, 24, 16, 4, seed=0, epoch=0)
    micro_batches, num_tokens = steps[0]
    assert len(micro_batches) > 1
    if checkpointing:
        model.gradient_checkpointing_enable()
    grouped = [model(**micro_batch, num_items_in_batch=num_tokens).loss for micro_batch in micro_batches]
    torch.stack(grouped).sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.gradient_checkpointing_disable()
    model.zero_grad()

    places = [(training[group.user], place) for group in steps.groups(0) for place in range(group.first, group.last)]
    samples = [(sequence[:place], sequence[place]) for sequence, place in places]
    histories = [[tokenizer.item_ids[row] for row in past] for past, _ in samples]
    inputs = tokenizer(histories=histories, return_tensors="pt")
    targets = [torch.tensor(tokenizer.sequences[target]) for _, target in samples]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    plain = model(**inputs, labels=labels).loss
    plain.backward()
    torch.testing.assert_close(torch.stack(grouped).sum(), plain, rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
        assert relative_error(gradients[name], parameter.grad) < 1e-5, name  # T5 keeps some steps in float32


@pytest.mark.parametrize("tied", [True, False])
def test_fresh_weights_are_distributed_as_t5s(tied):
    shape = {**SMALL, "vocab_size": 2000, "d_model": 128, "d_ff": 256}
    torch.manual_seed(0)
    t5 = T5ForConditionalGeneration(T5Config(**shape, tie_word_embeddings=tied)).state_dict()
    gram = GramForConditionalGeneration(GramConfig(**shape, tie_word_embeddings=tied)).state_dict()
    assert set(gram) - set(t5) == {"position_embedding.weight"}
    assert gram["position_embedding.weight"].std().item() == pytest.approx(0.02, rel=0.1)
    for name, weights in t5.items():
        if not tied and name == "lm_head.weight":
            continue  # T5 of transformers 5 always ties; see the next assertion
        assert gram[name].std().item() == pytest.approx(weights.std().item(), rel=0.15, abs=1e-6), name
    assert gram["lm_head.weight"].std().item() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_a_backbones_weights_are_taken_over_and_survive_saving(tmp_path, tied):
    torch.manual_seed(1)
    t5 = T5ForConditionalGeneration(T5Config(**SMALL, feed_forward_proj="gated-gelu", decoder_start_token_id=0))
    if not tied:
        t5.lm_head.weight = torch.nn.Parameter(torch.randn_like(t5.lm_head.weight))
        t5.config.scale_decoder_outputs = False
    t5.save_pretrained(tmp_path / "t5")
    model = GramForConditionalGeneration.from_backbone(str(tmp_path / "t5"), max_history=5).eval()
    assert (model.config.max_history, model.config.tie_word_embeddings) == (5, tied)
    model.save_pretrained(tmp_path / "gram")
    again = GramForConditionalGeneration.from_pretrained(tmp_path / "gram")
    assert (again.lm_head.weight is again.shared.weight) == tied
    labels, passages = torch.tensor([[5, 9, 1]]), torch.tensor([[[7, 8, 1]]])
    with torch.no_grad():
        model.position_embedding.weight.zero_()
        again.position_embedding.weight.zero_()
        expected = t5.eval()(input_ids=passages[:, 0], labels=labels).logits
        torch.testing.assert_close(model(input_ids=passages, labels=labels).logits, expected)
        torch.testing.assert_close(again(input_ids=passages, labels=labels).logits, expected)


def test_no_other_model_is_a_backbone(tmp_path):
    from transformers import BartConfig, BartForConditionalGeneration

    tiny = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    BartForConditionalGeneration(BartConfig(vocab_size=50, **tiny)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a 'bart' is no backbone"):
        GramForConditionalGeneration.from_backbone(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value"),
    [("d_model", 0), ("d_model", "wide"), ("max_history", 0), ("dropout_rate", 1.0), ("eos_token_id", 10**6)],
)
def test_an_impossible_value_names_its_field(field, value):
    with pytest.raises(StrictDataclassError, match=field):
        GramConfig(**{field: value})


def test_passages_of_the_wrong_shape_are_refused():
    model = GramForConditionalGeneration(GramConfig(**SMALL, max_history=2))
    with pytest.raises(ValueError, match=r"users, passages, tokens"):
        model(input_ids=torch.ones(2, 3, dtype=torch.long), labels=torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="at most 3"):
        model(input_ids=torch.ones(1, 4, 3, dtype=torch.long), labels=torch.ones(1, 3, dtype=torch.long))


@pytest.fixture(scope="module")
def eager_model(model):
    """With attention that can be looked at."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    return eager


@pytest.fixture(scope="module")
def inputs(tokenizer):
    labels = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(tokenizer.sequences[row]) for row in (3, 9)], batch_first=True, padding_value=-100
    )
    histories = [tokenizer.item_ids[:2], tokenizer.item_ids[4:9]]
    return {**tokenizer(histories=histories, return_tensors="pt"), "labels": labels}


def test_padding_before_the_prefix_changes_nothing(model, inputs):
    """With `decoder_attention_mask`, as in T5."""
    passages = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    prefix = torch.tensor([[0, 7, 9], [0, 5, 6]])
    padded, mask = F.pad(prefix, (2, 0)), F.pad(torch.ones_like(prefix), (2, 0))
    with torch.no_grad():
        expected = model(**passages, decoder_input_ids=prefix).logits
        for mask_like in (mask, mask.bool(), mask.float()):
            found = model(**passages, decoder_input_ids=padded, decoder_attention_mask=mask_like).logits[:, 2:]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_form_of_the_arguments_gives_the_same(model, inputs):
    with torch.no_grad():
        expected, encoded = model(**inputs), model.encode(inputs["input_ids"], inputs["attention_mask"])
        given = {"labels": inputs["labels"], "attention_mask": inputs["attention_mask"]}
        shifted = model.prepare_decoder_input_ids_from_labels(inputs["labels"])
        forms = [
            {**given, "encoder_outputs": encoded},
            {**given, "encoder_outputs": encoded.to_tuple()},
            {**given, "encoder_outputs": encoded, "attention_mask": inputs["attention_mask"].flatten(1)},
            {**inputs, "attention_mask": inputs["attention_mask"].bool()},
            {**inputs, "attention_mask": inputs["attention_mask"].float()},
            {**inputs, "input_ids": inputs["input_ids"].int()},
            {**inputs, "decoder_inputs_embeds": model.shared(shifted)},
            {**inputs, "inputs_embeds": None, "output_attentions": None, "use_cache": False},
        ]
        for form in forms:
            found = model(**form)
            torch.testing.assert_close(found.loss, expected.loss)
            torch.testing.assert_close(found.logits, expected.logits)
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs).loss, expected.loss)


def test_a_tuple_holds_what_the_dictionary_holds(eager_model, inputs):
    asked = {"output_attentions": True, "output_hidden_states": True, "use_cache": False}
    with torch.no_grad():
        found = eager_model(**inputs, **asked)
        as_tuple = eager_model(**inputs, **asked, return_dict=False)
    torch.testing.assert_close(as_tuple, found.to_tuple())
    layers, (users, length) = eager_model.config.num_decoder_layers, inputs["labels"].shape
    assert (
        len(found.decoder_attentions) == len(found.cross_attentions) == len(found.decoder_hidden_states) - 1 == layers
    )
    assert found.cross_attentions[0].shape[2:] == (length, inputs["input_ids"][0].numel())
    assert found.decoder_hidden_states[-1].shape == (users, length, eager_model.config.d_model)


def test_a_cache_of_the_prefix_gives_the_next_tokens_scores(model, inputs):
    passages = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    prefix = torch.tensor([[0, 7, 9], [0, 5, 6]])
    with torch.no_grad():
        whole = model(**passages, decoder_input_ids=prefix).logits
        first = model(**passages, decoder_input_ids=prefix[:, :2], use_cache=True)
        cached = {"past_key_values": first.past_key_values, "decoder_attention_mask": torch.ones(2, 3)}
        last = model(**passages, decoder_input_ids=prefix[:, 2:], **cached).logits
    torch.testing.assert_close(last, whole[:, 2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"warmth": 1}, TypeError, "no use for the argument 'warmth'"),
        ({"inputs_embeds": torch.zeros(2, 6, 48, 32)}, TypeError, "no use for the argument 'inputs_embeds'"),
        ({"output_attentions": True}, ValueError, '`output_attentions` needs `attn_implementation="eager"`'),
        ({"labels": None}, ValueError, "give `labels`, or `decoder_input_ids`"),
        ({"labels": [[1]]}, TypeError, "`labels` must be a tensor .* got a value of type list"),
        ({"labels": torch.tensor([5, 1])}, ValueError, r"`labels` must be \(2, tokens\), got shape \(2,\)"),
        ({"labels": torch.tensor([[5, 1]])}, ValueError, r"`labels` must be \(2, tokens\), got shape \(1, 2\)"),
        ({"labels": torch.tensor([[5], [-1]])}, ValueError, "`labels` holds -1; it may hold numbers from 0 to"),
        ({"decoder_input_ids": torch.tensor([[0], [0]])}, ValueError, r"`labels` must be \(2, 1\)"),
        ({"labels": None, "decoder_input_ids": torch.tensor([[0], [10**6]])}, ValueError, "holds 1000000; it may"),
        ({"decoder_attention_mask": torch.ones(2, 1)}, ValueError, r"`decoder_attention_mask` .* got \(2, 1\)"),
        ({"decoder_inputs_embeds": torch.zeros(2, 32)}, ValueError, r"must be \(2, tokens, 32\), got shape \(2, 32\)"),
        ({"encoder_outputs": 3}, TypeError, "`encoder_outputs` must be what `encode` returned"),
        ({"history": {}, "use_cache": True}, ValueError, "with `history`, forward\\(\\) has no use for 'use_cache'"),
        ({"history": {}}, ValueError, r"`input_ids` must be \(samples, tokens\), got shape"),
    ],
)
def test_a_wrong_argument_of_forward_is_named(model, inputs, wrong, error, message):
    with pytest.raises(error, match=message):
        model(**{**inputs, **wrong})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("items", lambda items: items + 100, "`items` holds 1\\d\\d; it may hold numbers from 0 to"),
        ("positions", lambda positions: positions + 100, "`positions` holds 1\\d\\d; it may hold numbers from 0 to 8"),
        ("positions", lambda positions: positions[:, :-1], r"`positions` must be \(\d+, \d+, \d+\), got shape"),
        ("attention_mask", lambda mask: mask[:, :-1], "`attention_mask` must be of shape"),
    ],
)
def test_a_wrong_history_of_the_grouped_form_is_named(model, data, tokenizer, name, change, message):
    (batch, *_), _ = TrainingSteps(training_part(data), tokenizer, 24, 16, 4, seed=0, epoch=0)[0]
    with pytest.raises(ValueError, match=message):
        model(**{**batch, "history": {**batch["history"], name: change(batch["history"][name])}})
    lacking = {key: value for key, value in batch["history"].items() if key != name}
    with pytest.raises(ValueError, match=f"`history` needs .*; there is no '{name}'"):
        model(**{**batch, "history": lacking})


def test_padding_does_not_change_a_users_scores(model, tokenizer):
    items = tokenizer.item_ids
    alone = tokenizer(histories=[items[:2]], return_tensors="pt")
    together = tokenizer(histories=[items[:2], items[:8]], return_tensors="pt")
    labels = torch.tensor([tokenizer.sequences[3]])
    with torch.no_grad():
        one = model(**alone, labels=labels).logits
        two = model(**together, labels=labels.expand(2, -1)).logits[:1]
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
