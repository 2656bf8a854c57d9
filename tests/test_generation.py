"""The item trie and generation: always valid, never twice, scored by the contract, whatever the catalogue."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CompileConfig, GenerationConfig

from gram import GramConfig, GramForConditionalGeneration, ItemTrie
from gram.arguments_gram import HARMLESS, HEEDED

END = 1
CONFIG = {"vocab_size": 24, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "max_history": 4}

# Small alphabets and short IDs, so that many IDs share prefixes and some are the prefix of another.
catalogues = st.lists(
    st.lists(st.integers(2, 7), min_size=1, max_size=4).map(tuple), min_size=1, max_size=25, unique=True
).map(lambda ids: [[*tokens, END] for tokens in ids])


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return GramForConditionalGeneration(GramConfig(**CONFIG)).eval()


def passages(num_users: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(num_users)
    ids = torch.randint(2, 24, (num_users, 4, 6), generator=draw)
    for user in range(num_users):
        ids[user, 1 + user % 4 :] = 0  # users of different history lengths
        ids[user, 0, 3:] = 0
    return ids


def exhaustive(model, input_ids, sequences, length_penalty=1.0, score_mode="vocabulary") -> torch.Tensor:
    """Scores (B, I) of every item, by teacher forcing."""
    length = max(map(len, sequences))
    labels = torch.tensor([[*tokens, *[-100] * (length - len(tokens))] for tokens in sequences])
    rows = []
    with torch.no_grad():
        for user in input_ids:
            logits = model(input_ids=user.expand(len(labels), -1, -1), labels=labels).logits
            if score_mode == "trie":
                logits = logits.masked_fill(~legal_tokens(sequences, logits.shape), -torch.inf)
            picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            total = picked.masked_fill(labels < 0, 0).sum(-1)
            rows.append(total / torch.tensor([len(tokens) ** length_penalty for tokens in sequences]))
    return torch.stack(rows)


def legal_tokens(sequences, shape) -> torch.Tensor:
    """(I, T, V): what may follow every prefix of every item; anything behind its end."""
    legal = torch.zeros(shape, dtype=torch.bool)
    for row, tokens in enumerate(sequences):
        for place in range(len(tokens)):
            legal[row, place, [other[place] for other in sequences if other[:place] == tokens[:place]]] = True
        legal[row, len(tokens) :] = True
    return legal


def search(model, input_ids, trie, num_beams, num_items=None, **options):
    return model.generate(
        input_ids,
        item_trie=trie,
        num_beams=num_beams,
        num_return_sequences=num_items or num_beams,
        return_dict_in_generate=True,
        **options,
    )


@settings(max_examples=60)
@given(catalogues)
def test_a_trie_gives_back_its_items(sequences):
    trie = ItemTrie.from_sequences(sequences)
    found = trie.sequences(trie.leaves.long(), pad_token_id=0).tolist()
    assert [[token for token in row if token] for row in found] == sequences
    prefixes = {tuple(tokens[:length]) for tokens in sequences for length in range(len(tokens) + 1)}
    assert (trie.num_nodes, trie.num_items, trie.depth) == (len(prefixes), len(sequences), max(map(len, sequences)))
    assert int(trie.sizes[0]) == len(sequences)


@settings(max_examples=40)
@given(catalogues, st.integers(1, 30), st.integers(1, 3))
def test_any_beam_width_returns_distinct_items_with_their_true_scores(small_model, sequences, num_beams, num_users):
    input_ids = passages(num_users)
    output = search(small_model, input_ids, ItemTrie.from_sequences(sequences), num_beams)
    truth = exhaustive(small_model, input_ids, sequences)
    expected = min(num_beams, len(sequences))
    for user, items in enumerate(output.item_indices.tolist()):
        real = [item for item in items if item >= 0]
        assert len(set(real)) == len(real) == expected
        scores = output.sequences_scores.view(num_users, -1)[user]
        np.testing.assert_allclose(scores[:expected], truth[user, real], atol=1e-5)
        assert sorted(scores.tolist(), reverse=True) == scores.tolist()
    if num_beams >= len(sequences):
        best = truth.sort(descending=True).values
        torch.testing.assert_close(
            output.sequences_scores.view(num_users, -1)[:, :expected], best, rtol=1e-5, atol=1e-5
        )


@settings(max_examples=60)
@given(catalogues, st.sampled_from(["vocabulary", "trie"]), st.booleans(), st.data())
def test_only_what_is_allowed_and_not_excluded_with_scores_as_without(small_model, sequences, score_mode, exact, data):
    rows, count = st.integers(0, len(sequences) - 1), len(sequences)
    allowed = data.draw(st.sets(rows), label="allowed")
    excluded = [data.draw(st.lists(rows, max_size=5), label="excluded") for _ in range(2)]
    input_ids, trie = passages(2), ItemTrie.from_sequences(sequences)
    truth = exhaustive(small_model, input_ids, sequences, score_mode=score_mode)
    given = data.draw(st.sampled_from([sorted(allowed), torch.tensor(sorted(allowed), dtype=torch.long)]))
    options = {"allowed_items": given, "excluded_items": excluded, "score_mode": score_mode, "exact": exact}
    output = search(small_model, input_ids, trie, count, **options)
    for user, (items, scores) in enumerate(
        zip(output.item_indices.tolist(), output.sequences_scores.view(2, -1), strict=True)
    ):
        left = allowed - set(excluded[user])
        assert {*items[: len(left)]} == left
        assert items[len(left) :] == [-1] * (count - len(left))
        torch.testing.assert_close(scores[: len(left)], truth[user, items[: len(left)]], rtol=1e-5, atol=1e-5)
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


@settings(max_examples=60)
@given(catalogues, st.data())
def test_a_subset_of_a_trie_counts_what_a_trie_of_these_items_has(sequences, data):
    rows = sorted(data.draw(st.sets(st.integers(0, len(sequences) - 1), min_size=1)))
    whole, few = ItemTrie.from_sequences(sequences), ItemTrie.from_sequences([sequences[row] for row in rows], rows)
    sizes = whole.subset(torch.tensor(rows))[torch.arange(whole.num_nodes)]
    assert sizes[0] == len(rows)
    assert sorted(sizes[sizes > 0].tolist()) == sorted(few.sizes.tolist())
    for row in rows:
        paths = (trie.paths(trie.leaves[row].long()) for trie in (whole, few))
        of_whole, of_few = (path[path > 0] for path in paths)
        assert torch.equal(sizes[of_whole], few.sizes[of_few])


def test_bad_sets_of_allowed_items_are_refused(small_model):
    options = {"item_trie": TRIE, "num_beams": 2}
    with pytest.raises(ValueError, match="`allowed_items`"):
        small_model.generate(passages(1), allowed_items=[TRIE.num_items], **options)
    with pytest.raises(TypeError, match=r"must be integers, catalogue rows, got torch\.bool"):
        small_model.generate(passages(1), allowed_items=torch.ones(TRIE.num_items, dtype=torch.bool), **options)
    with pytest.raises(ValueError, match=f"item row 9999 is not one of the trie's {TRIE.num_items} rows"):
        TRIE.subset(torch.tensor([0, 9999]))
    assert (small_model.generate(passages(1), allowed_items=[], **options)[:, 1:] == 0).all()


@settings(max_examples=30)
@given(catalogues, st.integers(1, 30))
def test_scores_over_the_trie_are_those_over_legal_tokens_alone(small_model, sequences, num_beams):
    input_ids, trie = passages(2), ItemTrie.from_sequences(sequences)
    output = search(small_model, input_ids, trie, num_beams, score_mode="trie")
    truth = exhaustive(small_model, input_ids, sequences, score_mode="trie")
    found = min(num_beams, len(sequences))
    scores = output.sequences_scores.view(2, -1)[:, :found]
    torch.testing.assert_close(scores, truth.gather(1, output.item_indices[:, :found]), rtol=1e-5, atol=1e-5)
    if num_beams >= len(sequences):
        torch.testing.assert_close(scores, truth.sort(descending=True).values, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(catalogues)
def test_a_model_of_the_trie_has_its_scores_as_loss_and_searches_by_them(small_model, sequences):
    model = copy.deepcopy(small_model)
    model.config.score_mode = "trie"
    model.set_item_trie(ItemTrie.from_sequences(sequences))
    input_ids, count = passages(2), len(sequences)
    output = search(model, input_ids, None, count)
    truth = exhaustive(small_model, input_ids, sequences, score_mode="trie")
    torch.testing.assert_close(output.sequences_scores.view(2, -1), truth.sort(descending=True).values)
    labels = [torch.tensor(tokens) for tokens in sequences]
    labels = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    legal = [set(tokens.tolist()) - {-1} for tokens in model.item_trie.legal_tokens(labels).flatten(0, 1)]
    shape = (*labels.shape, CONFIG["vocab_size"])
    for row, place in labels.ge(0).nonzero().tolist():
        allowed = legal_tokens(sequences, shape)[row, place].nonzero().flatten().tolist()
        assert legal[row * labels.shape[1] + place] == set(allowed)
    lengths = labels.ge(0).sum(1)
    for user, scores in zip(input_ids, truth, strict=True):
        loss = model(input_ids=user.expand(count, -1, -1), labels=labels, num_items_in_batch=1).loss
        torch.testing.assert_close(loss, -(scores * lengths).sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("labels", [[7, 5, END], [5, 8, END, END], [5, -100, END], [END]])
def test_a_target_that_is_no_lexical_id_is_refused_where_only_these_are_possible(small_model, labels):
    model = copy.deepcopy(small_model)
    model.config.score_mode = "trie"
    model.set_item_trie(ItemTrie.from_sequences([[5, 8, END], [5, 9, END], [7, END]]))
    labels = torch.tensor([[5, 8, END, -100], [*labels, *[-100] * (4 - len(labels))]])
    with pytest.raises(ValueError, match=r"sequence 1, \[.*\], is no lexical ID of the item trie"):
        model(input_ids=passages(2), labels=labels)


def test_a_loss_over_the_trie_without_one_says_what_to_call():
    model = GramForConditionalGeneration(GramConfig(**CONFIG, score_mode="trie"))
    with pytest.raises(ValueError, match=r"the model has no item trie: .* `set_item_trie`"):
        model(input_ids=passages(1), labels=torch.tensor([[5, END]]))


@settings(max_examples=30)
@given(catalogues, st.integers(1, 12), st.sampled_from(["vocabulary", "trie"]), st.data())
def test_exact_search_returns_the_best_of_the_exhaustive_ranking(small_model, sequences, num_items, mode, data):
    input_ids, trie = passages(3), ItemTrie.from_sequences(sequences)
    excluded = torch.tensor([data.draw(st.lists(st.integers(-1, len(sequences) - 1), min_size=2, max_size=2))] * 3)
    output = search(small_model, input_ids, trie, num_items, score_mode=mode, excluded_items=excluded, exact=True)
    truth = exhaustive(small_model, input_ids, sequences, score_mode=mode)
    truth[:, [item for item in excluded[0].tolist() if item >= 0]] = -torch.inf
    best = torch.nn.functional.pad(truth.sort(descending=True).values, (0, 12), value=-torch.inf)[:, :num_items]
    torch.testing.assert_close(output.sequences_scores.view(3, -1), best, rtol=1e-5, atol=1e-5)
    assert ((output.item_indices >= 0) == (best > -torch.inf)).all()
    assert (1 <= output.num_scored_nodes).all()
    assert (output.num_scored_nodes <= trie.num_nodes - trie.num_items).all()


def test_exact_search_needs_no_beams(small_model):
    trie = ItemTrie.from_sequences([[2, END], [3, END], [4, 5, END]])
    options = {"item_trie": trie, "exact": True, "return_dict_in_generate": True}
    assert sorted(small_model.generate(passages(1), num_return_sequences=3, **options).item_indices[0]) == [0, 1, 2]
    assert small_model.generate(passages(2), **options).item_indices.shape == (2, 1)


def test_a_model_in_bfloat16_ranks_nearly_alike(small_model):
    sequences = [[first, second, END] for first in range(2, 7) for second in range(2, 7)]
    trie, low = ItemTrie.from_sequences(sequences), copy.deepcopy(small_model).bfloat16()
    for options in ({}, {"score_mode": "trie"}, {"exact": True}):
        true = search(small_model, passages(2), trie, 25, **options)
        near = search(low, passages(2), trie, 25, **options)
        scores = [found.sequences_scores.view(2, -1).gather(1, found.item_indices.argsort()) for found in (true, near)]
        torch.testing.assert_close(*scores, rtol=0.05, atol=0.05)


@settings(max_examples=40)
@given(catalogues, st.data())
def test_excluded_items_never_come_and_take_no_beams(small_model, sequences, data):
    excluded = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=len(sequences) + 3))
    input_ids, rows = passages(2), torch.tensor([excluded or [-1], [-1] * max(len(excluded), 1)])
    num_beams = data.draw(st.integers(1, len(sequences) + 2))
    output = search(small_model, input_ids, ItemTrie.from_sequences(sequences), num_beams, excluded_items=rows)
    allowed = len(sequences) - len(set(excluded))
    first, second = ([item for item in items if item >= 0] for items in output.item_indices.tolist())
    assert not set(first) & set(excluded)
    assert len(first) == min(num_beams, allowed)
    assert len(second) == min(num_beams, len(sequences))


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 2.0, -1.0])
def test_the_length_penalty_divides_the_summed_log_probability(small_model, length_penalty):
    sequences = [[2, END], [2, 3, END], [2, 3, 4, END], [5, 6, 7, 2, END]]
    output = search(small_model, passages(3), ItemTrie.from_sequences(sequences), 4, length_penalty=length_penalty)
    truth = exhaustive(small_model, passages(3), sequences, length_penalty)
    best = truth.sort(descending=True).values
    torch.testing.assert_close(output.sequences_scores.view(3, 4), best, atol=1e-5, rtol=1e-6)


def test_sequences_are_start_lexical_id_end_and_padding(small_model):
    trie = ItemTrie.from_sequences([[2, END], [3, 4, 5, END]])
    sequences = small_model.generate(passages(1), item_trie=trie, num_beams=3, num_return_sequences=3).tolist()
    assert sorted(sequences) == [[0, 0, 0, 0, 0], [0, 2, 1, 0, 0], [0, 3, 4, 5, 1]]


@pytest.mark.parametrize("score_mode", ["vocabulary", "trie"])
def test_steps_of_one_shape_compile_to_one_graph_and_change_nothing(small_model, score_mode):
    sequences = [[first, second, first, END] for first in range(2, 8) for second in range(2, 8)] + [[9, END]]
    trie, counters = ItemTrie.from_sequences(sequences), torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    compiled = {"cache_implementation": "static", "compile_config": CompileConfig(backend="eager", fullgraph=True)}
    for users in (2, 2):
        plain = search(small_model, passages(users), trie, 10, score_mode=score_mode)
        static = search(small_model, passages(users), trie, 10, score_mode=score_mode, **compiled)
        assert torch.equal(static.item_indices, plain.item_indices)
        torch.testing.assert_close(static.sequences_scores, plain.sequences_scores, rtol=1e-5, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1


def test_a_subset_of_the_catalogue_keeps_its_rows(small_model):
    trie = ItemTrie.from_sequences([[2, END], [3, 4, END]], rows=[7, 3])
    assert set(search(small_model, passages(1), trie, 2).item_indices[0].tolist()) == {3, 7}
    excluded = torch.tensor([[7, 5, 9]])  # the last one lies beyond the rows of the subset
    assert search(small_model, passages(1), trie, 2, excluded_items=excluded).item_indices.tolist() == [[3, -1]]


def test_threads_share_a_model(model, tokenizer):
    histories = [[tokenizer.item_ids[(user + step) % 25] for step in range(1 + user % 6)] for user in range(12)]

    def recommend(history):
        inputs = tokenizer(histories=[history], return_tensors="pt")
        return model.generate(**inputs, num_beams=8, num_return_sequences=8).tolist()

    one_by_one = [recommend(history) for history in histories]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(recommend, histories)) == one_by_one


TRIE = ItemTrie.from_sequences([[2, END], [3, 4, END], [5, 6, END], [5, 7, END]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 2, "num_return_sequences": 3}, "`num_return_sequences` is 3, more than `num_beams`, 2"),
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
        ({"num_beams": 2.5}, "num_beams is 2.5; it must be a whole number"),
        ({"num_return_sequences": -1}, "num_return_sequences is -1; it must be at least 1"),
        ({"length_penalty": float("nan")}, "`length_penalty` is nan; it must be a finite number"),
        ({"do_sample": True}, "do_sample"),
        ({"bad_words_ids": [[5]]}, r"`bad_words_ids` \(\[\[5\]\]\), and refuses it: `excluded_items`"),
        ({"output_attentions": True}, "`output_attentions` .* `explain`"),
        ({"output_scores": True}, "`output_scores` .* `sequences_scores`"),
        ({"eos_token_id": 3}, "`eos_token_id` is 3; the model was made with 1"),
        ({"max_new_tokens": 2}, "leaves room for 3 tokens; the longest sequence of the catalogue has 4"),
        ({"cache_implementation": "hybrid"}, "`cache_implementation` is 'hybrid'; it must be"),
        ({"compile_config": CompileConfig()}, "`compile_config` has no effect without"),
        ({"exact": True, "cache_implementation": "static"}, "exact search has no static form"),
        ({"warmth": 1}, "unknown argument 'warmth'"),
        ({"logits_processor": [print]}, "unknown argument 'logits_processor'"),
        ({"inputs_embeds": torch.zeros(1, 4, 6, 16)}, "unknown argument 'inputs_embeds'"),
        ({"score_mode": "loud"}, "score_mode is 'loud'"),
    ],
)
def test_what_generate_cannot_do_is_refused(small_model, arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model.generate(passages(1), item_trie=TRIE, **arguments)


@pytest.mark.parametrize("name", sorted(name for name in vars(GenerationConfig()) if name[0] != "_"))
def test_every_option_is_heeded_or_refused_by_name_wherever_it_stands(small_model, name):
    """Or it is one of those that could change nothing: where they stand, all is as without them."""
    if name in HEEDED:
        return
    changed, given = copy.deepcopy(small_model), GenerationConfig()
    for config in (changed.generation_config, given):
        setattr(config, name, 7)
    ways = [(small_model, {name: 7}), (small_model, {"generation_config": given}), (changed, {})]
    for model, options in ways:
        if name in HARMLESS:
            found = model.generate(passages(1), item_trie=TRIE, **options)
            assert torch.equal(found, small_model.generate(passages(1), item_trie=TRIE))
            continue
        with pytest.raises(ValueError, match=f"`{name}`"):
            model.generate(passages(1), item_trie=TRIE, **options)


def test_options_that_are_off_are_taken(small_model):
    off = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "num_beam_groups": 1, "min_length": 0}
    off |= {"repetition_penalty": 1.0, "diversity_penalty": 0.0, "max_length": 20, "output_scores": False}
    off |= {"logits_processor": [], "stopping_criteria": None, "streamer": None, "eos_token_id": [END]}
    expected = search(small_model, passages(2), TRIE, 4)
    assert torch.equal(search(small_model, passages(2), TRIE, 4, **off).sequences, expected.sequences)
    passed_on = {"labels": torch.tensor([[5, END]] * 2), "synced_gpus": False}
    assert torch.equal(search(small_model, passages(2), TRIE, 4, **passed_on).sequences, expected.sequences)


@pytest.mark.parametrize("exact", [False, True])
def test_a_generation_config_says_what_keywords_do_not(small_model, exact):
    """Keywords come first, then the config that is given, then the model's own; exact search has no beams."""
    model = copy.deepcopy(small_model)
    model.generation_config.update(num_beams=4, num_return_sequences=4, length_penalty=0.0)
    given = GenerationConfig(num_beams=3, num_return_sequences=3, return_dict_in_generate=True)
    for options, count in (({}, 3), ({"num_return_sequences": 2}, 2)):
        found = model.generate(passages(2), item_trie=TRIE, generation_config=given, exact=exact, **options)
        expected = search(small_model, passages(2), TRIE, 3, count, length_penalty=0.0, exact=exact)
        assert torch.equal(found.item_indices, expected.item_indices)
        assert torch.equal(found.sequences_scores, expected.sequences_scores)
    assert model.generate(passages(2), item_trie=TRIE, exact=exact).shape == (8, 4)
    with pytest.raises(TypeError, match="`generation_config` must be a GenerationConfig, got a value of type dict"):
        model.generate(passages(2), item_trie=TRIE, generation_config={"num_beams": 3})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("shared", 5),  # a token that lexical IDs begin with
        ("position_embedding", 1),  # of the newest item
        ("encoder.final_layer_norm", 0),
        ("decoder.block.0.layer.1.EncDecAttention.v", 0),
    ],
)
def test_a_model_whose_scores_are_not_finite_recommends_nothing(small_model, name, row, value):
    broken = copy.deepcopy(small_model)
    with torch.no_grad():
        broken.get_submodule(name).weight[row] = value
    ways = [{"exact": exact, "score_mode": mode} for exact in (False, True) for mode in ("vocabulary", "trie")]
    for options in ways:
        with pytest.raises(ValueError, match="the model's scores are not finite"):
            search(broken, passages(2), TRIE, 2, **options)
    with pytest.raises(ValueError, match="the model's scores are not finite"):
        broken.explain(torch.tensor([[0], [1]]), passages(2), item_trie=TRIE)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"input_ids": passages(2).tolist()}, TypeError, r"`input_ids` must be a tensor .* got a value of type list"),
        ({"input_ids": passages(2).numpy()}, TypeError, r"`input_ids` must be a tensor .* got a value of type ndarray"),
        ({"input_ids": passages(2).float()}, TypeError, r"`input_ids` must be a tensor .* got torch.float32"),
        ({"input_ids": None}, TypeError, r"`input_ids` must be a tensor .* got a value of type NoneType"),
        ({"input_ids": passages(2)[0]}, ValueError, r"must be \(users, passages, tokens\), got shape \(4, 6\)"),
        ({"input_ids": passages(2)[:0]}, ValueError, r"`input_ids` is empty, of shape \(0, 4, 6\)"),
        ({"input_ids": passages(2) + 1000}, ValueError, r"`input_ids` holds 10\d\d; it may hold numbers from 0 to 23"),
        ({"input_ids": -passages(2)}, ValueError, r"`input_ids` holds -\d+; it may hold numbers from 0 to 23"),
        ({"attention_mask": [[1]]}, TypeError, "`attention_mask` must be a tensor .* got a value of type list"),
        ({"attention_mask": torch.ones(2, 4, 5)}, ValueError, r"must be of shape \(2, 4, 6\), got \(2, 4, 5\)"),
        ({"attention_mask": torch.full((2, 4, 6), 2)}, ValueError, "`attention_mask` holds 2; .* from 0 to 1"),
        ({"attention_mask": torch.full((2, 4, 6), -1e9)}, ValueError, "must be 1 at tokens and 0 at padding"),
        ({"item_trie": {}}, TypeError, "`item_trie` must be an ItemTrie, got a value of type dict"),
        ({"item_trie": ItemTrie()}, ValueError, "`item_trie` holds no item"),
        ({"item_trie": ItemTrie.from_sequences([[99, END]])}, ValueError, "holds token 99; .* vocabulary has 24"),
        ({"encoder_outputs": torch.zeros(2, 24, 16)}, TypeError, "`encoder_outputs` must be what `encode` returned"),
        ({"encoder_outputs": (torch.zeros(2, 9, 16),)}, ValueError, r"must be of shape \(2, 9\), got \(2, 24\)"),
        ({"excluded_items": torch.tensor([0, 1])}, ValueError, r"of shape \(2, 1 or more\), .* got \(2,\)"),
        ({"excluded_items": torch.tensor([[0], [1], [2]])}, ValueError, r"\(2, 1 or more\), .* got \(3, 1\)"),
        ({"excluded_items": [0, 1]}, ValueError, r"one list for each user, got \[0, 1\]"),
        ({"excluded_items": [[0]]}, ValueError, r"one list for each user, got \[\[0\]\]"),
        ({"excluded_items": [["a"], ["b"]]}, TypeError, "`excluded_items` must be catalogue rows"),
        ({"excluded_items": torch.tensor([[0.5], [1.0]])}, TypeError, "must be integers, catalogue rows, got torch"),
        ({"excluded_items": torch.tensor([[-7], [1]])}, ValueError, "holds -7; it may hold numbers from -1 on"),
    ],
)
def test_a_wrong_argument_is_named(small_model, wrong, error, message):
    given = {"input_ids": passages(2), "item_trie": TRIE, **wrong}
    with pytest.raises(error, match=message):
        small_model.generate(**given, num_beams=2)
    if "excluded_items" not in wrong and "encoder_outputs" not in wrong:
        with pytest.raises(error, match=message):
            small_model.explain(torch.tensor([[0], [1]]), **given)


@pytest.mark.parametrize("users", [[1], [0, 1, 2]])
def test_a_user_without_a_passage_is_named(small_model, users):
    input_ids = passages(3)
    input_ids[users] = 0
    encoded = {"encoder_outputs": small_model.encode(input_ids), "attention_mask": input_ids.ne(0)}
    for inputs in ({"input_ids": input_ids}, encoded):
        for exact in (False, True):
            with pytest.raises(ValueError, match=f"user {users[0]} has no passage"):
                small_model.generate(**inputs, item_trie=TRIE, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
def test_excluded_items_are_taken_in_every_form(small_model, exact):
    rows = [[0, 2], [1]]
    forms = [rows, [np.array(user) for user in rows], np.array([[0, 2], [1, -1]]), torch.tensor([[0, 2], [1, -1]])]
    forms += [torch.tensor([[0, 2], [1, -1]], dtype=torch.int32), (torch.tensor([0, 2]), torch.tensor([1]))]
    for form in forms:
        found = search(small_model, passages(2), TRIE, 4, excluded_items=form, exact=exact).item_indices
        assert [sorted(user) for user in found.tolist()] == [[-1, -1, 1, 3], [-1, 0, 2, 3]]
    for nothing in ([[], []], torch.zeros(2, 0, dtype=torch.long)):
        found = search(small_model, passages(2), TRIE, 4, excluded_items=nothing, exact=exact).item_indices
        assert [sorted(user) for user in found.tolist()] == [[0, 1, 2, 3]] * 2


def test_a_model_without_a_trie_says_so(small_model):
    with pytest.raises(ValueError, match="set_item_trie"):
        small_model.generate(passages(1))


@pytest.mark.parametrize("num_users", [1, 3])
def test_encoded_passages_give_what_the_passages_give(small_model, num_users):
    """Padding of encoder outputs is left out, also where there is one user."""
    input_ids, trie = passages(num_users), ItemTrie.from_sequences([[2, 3, END], [2, 4, END], [5, END]])
    expected = search(small_model, input_ids, trie, 3)
    encoded, mask = small_model.encode(input_ids), input_ids.ne(0)
    masks = [mask.long(), mask, mask.float(), mask.flatten(1)]
    for outputs, mask in [(encoded, masks[0]), *((encoded.to_tuple(), mask) for mask in masks)]:
        found = search(small_model, None, trie, 3, encoder_outputs=outputs, attention_mask=mask)
        assert torch.equal(found.sequences, expected.sequences)
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores)
    for mask in masks[:3]:
        assert torch.equal(search(small_model, input_ids, trie, 3, attention_mask=mask).sequences, expected.sequences)
