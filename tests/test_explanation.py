"""Explanations: attention is that of the plain decoder, probabilities are the score's, nodes are the trie's."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gram import GramConfig, GramForConditionalGeneration, ItemTrie

TOP_K = 5


@pytest.fixture(scope="module")
def deep_models(model):
    """A model of two decoder layers, and the same with attention that can be looked at."""
    torch.manual_seed(0)
    deep = GramForConditionalGeneration(GramConfig(**{**model.config.to_dict(), "num_decoder_layers": 2})).eval()
    deep.item_trie = model.item_trie
    eager = copy.deepcopy(deep)
    eager.set_attn_implementation("eager")
    return deep, eager


def attention_of_plain_decoder(model, inputs, token_ids) -> torch.Tensor:
    """Shares (B, P) of padded passages, by `output_attentions`, for one item per user."""
    labels = token_ids.masked_fill(token_ids == model.config.pad_token_id, -100)  # (B, T)
    weights = model(**inputs, labels=labels, output_attentions=True, return_dict=True).cross_attentions
    weights = torch.stack(weights).mean((0, 2))  # (B, T, P * L)
    by_passage = weights.unflatten(-1, inputs["input_ids"].shape[1:]).sum(-1)  # (B, T, P)
    spelled = labels >= 0
    return (by_passage * spelled[..., None]).sum(1) / spelled.sum(1, keepdim=True)


def scores_of(explanation, length_penalty=1.0):
    lengths = (explanation.num_items_left > 0).sum(-1).clamp(min=1)
    return explanation.token_log_probs.sum(-1) / lengths**length_penalty


def items_below(tokenizer, begin):
    return [tokens for tokens in tokenizer.sequences if tokens[: len(begin)] == begin]


def recommend(model, inputs, **options):
    return model.generate(**inputs, num_beams=20, num_return_sequences=TOP_K, return_dict_in_generate=True, **options)


@settings(max_examples=25)
@given(
    places=st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=10), min_size=1, max_size=3),
    score_mode=st.sampled_from(["vocabulary", "trie"]),
)
def test_explanations_of_what_is_recommended_to_random_histories(deep_models, tokenizer, places, score_mode):
    """One user or several, items twice in a history, more of them than the model reads."""
    model, eager = copy.deepcopy(deep_models)
    model.config.score_mode = score_mode
    histories = [[tokenizer.item_ids[place] for place in user] for user in places]
    inputs = tokenizer(histories=histories, return_tensors="pt")
    output = recommend(model, inputs)
    found = model.explain(output.item_indices, **inputs)

    torch.testing.assert_close(scores_of(found).flatten(), output.sequences_scores, atol=1e-5, rtol=1e-5)
    shares = found.attention_shares  # (B, K, P)
    assert shares.shape == (len(places), TOP_K, inputs["input_ids"].shape[1])
    torch.testing.assert_close(shares.sum(-1), torch.ones(len(places), TOP_K))
    with torch.no_grad():
        for rank in range(TOP_K):
            expected = attention_of_plain_decoder(eager, inputs, found.token_ids[:, rank])
            torch.testing.assert_close(shares[:, rank], expected, atol=1e-4, rtol=1e-3)
    assert (shares[~inputs["attention_mask"].any(-1)[:, None].expand_as(shares)] == 0).all()


def test_ids_are_spelled_through_the_tree(model, tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[:3], tokenizer.item_ids[9:10]], return_tensors="pt")
    items = torch.arange(len(tokenizer.item_ids)).expand(2, -1)
    found = model.explain(items, **inputs)
    for user in range(2):
        for item, tokens in enumerate(tokenizer.sequences):
            width = len(tokens)
            assert found.token_ids[user, item, :width].tolist() == tokens
            below = [items_below(tokenizer, tokens[:size]) for size in range(width + 1)]
            choices = [{other[size] for other in below[size]} for size in range(width)]
            assert found.num_choices[user, item, :width].tolist() == list(map(len, choices))
            assert found.num_items_left[user, item, :width].tolist() == list(map(len, below[1:]))
            for name in ("token_ids", "token_log_probs", "choice_probs", "num_choices", "num_items_left"):
                assert not found[name][user, item, width:].any()

    labels = torch.tensor([tokenizer.sequences[4]]).expand(2, -1)
    with torch.no_grad():
        logits = model(**inputs, labels=labels).logits
    for place, token in enumerate(tokenizer.sequences[4]):
        choices = sorted({other[place] for other in items_below(tokenizer, tokenizer.sequences[4][:place])})
        expected = logits[:, place, choices].softmax(-1)[:, choices.index(token)]
        torch.testing.assert_close(found.choice_probs[:, 4, place], expected)
        expected = logits[:, place].log_softmax(-1)[:, token]
        torch.testing.assert_close(found.token_log_probs[:, 4, place], expected)


def test_probabilities_among_choices_give_the_score_over_the_trie(model, tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[5:9]], return_tensors="pt")
    output = recommend(model, inputs, score_mode="trie", length_penalty=0.5)
    found = model.explain(output.item_indices, **inputs)
    found["token_log_probs"] = found.choice_probs.clamp(min=1e-30).log() * (found.num_items_left > 0)
    torch.testing.assert_close(scores_of(found, 0.5).flatten(), output.sequences_scores, rtol=1e-5, atol=1e-5)


def test_cache_subset_and_padding(model, tokenizer):
    """With cached items the same; with a trie of two items, two, of probabilities among these; and nothing for -1."""
    histories = [tokenizer.item_ids[:8], tokenizer.item_ids[2:3]]
    inputs = tokenizer(histories=histories, return_tensors="pt")
    lean = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
    cache = model.encode_items(tokenizer, progress=False)
    items = torch.tensor([[4, 7, -1], [7, -1, 4]])
    for options in ({}, {"item_trie": ItemTrie.from_sequences([tokenizer.sequences[row] for row in (4, 7)], [4, 7])}):
        plain = model.explain(items, **inputs, **options)
        cached = model.explain(items, **lean, item_cache=cache, **options)
        for name, values in plain.items():
            torch.testing.assert_close(cached[name], values, atol=1e-5, rtol=1e-4)
            assert not values[items < 0].any()
    assert plain.num_choices.max() <= 2
    assert plain.num_items_left[0, 0, -1] <= 1

    everything = model.explain(torch.tensor([[-1], [-1]]), **inputs, **options)
    assert not any(values.any() for values in everything.values())


def test_a_checkpoint_elsewhere_explains_itself(model, model_folder, tokenizer, run_elsewhere):
    script = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, history, items = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
import torch
found = model.explain(torch.tensor([items]), **tokenizer(histories=[history], return_tensors="pt"))
print(json.dumps(found.attention_shares.tolist()))
"""
    history, items = tokenizer.item_ids[3:6], [1, 8]
    here = model.explain(torch.tensor([items]), **tokenizer(histories=[history], return_tensors="pt"))
    there = run_elsewhere(script, [str(model_folder), history, items])
    torch.testing.assert_close(torch.tensor(there), here.attention_shares)


def test_errors_name_the_argument(model, tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[:2]], return_tensors="pt")
    for wrong in (torch.tensor([3]), torch.tensor([[3], [4]]), torch.zeros(1, 0, dtype=torch.long), [3], [[3], [4]]):
        with pytest.raises(ValueError, match=r"`item_indices` must be of shape \(1, 1 or more\), .*got"):
            model.explain(wrong, **inputs)
    with pytest.raises(ValueError, match="`item_indices` holds -4; it may hold numbers from -1 on"):
        model.explain(torch.tensor([[-4]]), **inputs)
    for trie, row in ((None, 30), (ItemTrie.from_sequences([tokenizer.sequences[4]], [4]), 3)):
        with pytest.raises(ValueError, match=f"`item_indices`: item {row} is not in the trie"):
            model.explain(torch.tensor([[row]]), **inputs, item_trie=trie)
    with pytest.raises(ValueError, match="together"):
        model.explain(torch.tensor([[3]]), **inputs, history=torch.tensor([[3]]))
