"""Exact search against the ranking of every item: any catalogue, length penalty, exclusions and step width."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gram import GramConfig, GramForConditionalGeneration, ItemTrie
from gram.generation_gram import exact_search

END, START = 1, 0
VOCABULARY = 12

# Small alphabets and short IDs, so that many IDs share prefixes and some are the prefix of another.
catalogues = st.lists(
    st.lists(st.integers(2, VOCABULARY - 1), max_size=5).map(tuple), min_size=1, max_size=40, unique=True
).map(lambda ids: [[*tokens, END] for tokens in ids])
penalties = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])
widths = st.sampled_from([1, 7, 64])


class Paths:
    """The path of every slot, from the calls of a step."""

    def __init__(self):
        self.paths = []

    def append(self, tokens, parents) -> list[tuple[int, ...]]:
        new = []
        for token, parent in zip(tokens[0].tolist(), parents[0].tolist(), strict=True):
            assert -1 <= parent < len(self.paths)
            new.append((*(self.paths[parent] if parent >= 0 else ()), token))
        self.paths += new
        return new


class TableStep:
    """A language model that is a table: each path's next tokens have random log-probabilities, or all the same."""

    def __init__(self, seed: int, sharpness: float):
        self.seed, self.sharpness = seed, sharpness
        self.slots = Paths()

    def log_probs(self, path) -> torch.Tensor:
        draw = np.random.default_rng([self.seed, *path])
        return torch.from_numpy(draw.normal(size=VOCABULARY) * self.sharpness).float().log_softmax(-1)

    def __call__(self, tokens, parents, candidates, legal):
        table = torch.stack([self.log_probs(path) for path in self.slots.append(tokens, parents)])[None]
        return table.gather(-1, candidates).masked_fill(~legal, -torch.inf)


class TeacherForcingStep:
    """The plain form: every path through `forward`, from the start token on."""

    def __init__(self, model, input_ids):
        self.model, self.mask = model, input_ids.ne(0).long()
        self.encoded = model.encode(input_ids, self.mask)
        self.slots = Paths()

    def __call__(self, tokens, parents, candidates, legal):
        rows = []
        for path in self.slots.append(tokens, parents):
            ids = torch.tensor([path])
            output = self.model(decoder_input_ids=ids, encoder_outputs=self.encoded, attention_mask=self.mask)
            rows.append(output.logits[0, -1].log_softmax(-1))
        return torch.stack(rows)[None].gather(-1, candidates).masked_fill(~legal, -torch.inf)


def ranking(step: TableStep, sequences, length_penalty, excluded=()) -> list[tuple[float, int]]:
    """Score and row of every item that is not excluded, best first, of equal ones the first row."""
    scored = []
    for row, tokens in enumerate(sequences):
        if row not in excluded:
            picked = [step.log_probs((START, *tokens[:place]))[token].item() for place, token in enumerate(tokens)]
            scored.append((sum(picked) / float(len(tokens)) ** length_penalty, row))
    return sorted(scored, key=lambda pair: (-pair[0], pair[1]))


@settings(max_examples=300)
@given(catalogues, penalties, widths, st.data())
def test_the_best_items_are_those_of_the_full_ranking(sequences, length_penalty, width, data):
    count = data.draw(st.integers(1, len(sequences) + 2), label="K")
    excluded = data.draw(st.none() | st.lists(st.integers(-1, len(sequences) - 1), max_size=30), label="excluded")
    allowed = data.draw(st.none() | st.sets(st.integers(0, len(sequences) - 1)), label="allowed")
    sharpness = data.draw(st.sampled_from([0.0, 0.3, 1.0, 4.0]), label="sharpness")  # 0: ties everywhere
    step = TableStep(data.draw(st.integers(0, 10**6), label="seed"), sharpness)
    trie = ItemTrie.from_sequences(sequences)
    rows = None if excluded is None else torch.tensor(excluded, dtype=torch.long)
    subset = None if allowed is None else trie.subset(torch.tensor(sorted(allowed), dtype=torch.long))
    found = exact_search(step, trie, count, length_penalty, START, rows, subset, nodes_per_step=width)
    leaves, scores, num_scored = found

    forbidden = {*(excluded or ()), *(() if allowed is None else set(range(len(sequences))) - allowed)}
    truth = ranking(step, sequences, length_penalty, forbidden)[:count]
    missing = count - len(truth)
    items = [int(trie.items[leaf]) if leaf >= 0 else -1 for leaf in leaves.tolist()]
    assert items == [row for _, row in truth] + [-1] * missing
    expected = torch.tensor([score for score, _ in truth] + [-torch.inf] * missing)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-6)
    assert num_scored == len(step.slots.paths) <= int((trie.items < 0).sum())
    assert len(set(step.slots.paths)) == len(step.slots.paths)


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "max_history": 4}
    return GramForConditionalGeneration(GramConfig(vocab_size=24, **shape)).eval()


@settings(max_examples=25)
@given(catalogues, penalties, widths, st.data())
def test_a_model_and_its_own_scores_of_every_item(small_model, sequences, length_penalty, width, data):
    count = data.draw(st.integers(1, len(sequences)))
    input_ids = torch.randint(2, 24, (1, 3, 6), generator=torch.Generator().manual_seed(len(sequences)))
    labels = torch.full((len(sequences), max(map(len, sequences))), -100)
    for row, tokens in zip(labels, sequences, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        logits = small_model(input_ids=input_ids.expand(len(labels), -1, -1), labels=labels).logits
    picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    lengths = torch.tensor([float(len(tokens)) for tokens in sequences])
    truth = picked.masked_fill(labels < 0, 0).sum(-1) / lengths**length_penalty

    trie = ItemTrie.from_sequences(sequences)
    step = TeacherForcingStep(small_model, input_ids)
    leaves, scores, _ = exact_search(step, trie, count, length_penalty, START, nodes_per_step=width)
    items = trie.items[leaves].long()
    assert len(set(items.tolist())) == count
    torch.testing.assert_close(scores, truth[items], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores, truth.topk(count).values, atol=1e-5, rtol=1e-5)


def test_a_sure_model_needs_few_prefixes():
    sequences = [[a, b, c, END] for a in range(2, 12) for b in range(2, 12) for c in range(2, 12)]
    step = TableStep(seed=0, sharpness=8.0)
    _, _, num_scored = exact_search(step, ItemTrie.from_sequences(sequences), 1, 1.0, START, nodes_per_step=1)
    assert num_scored < 50  # of 1,111


def test_a_step_is_never_wider_than_asked():
    sequences = [[a, b, END] for a in range(2, 12) for b in range(2, 12)]
    step = TableStep(seed=0, sharpness=0.1)
    widest = []

    def watched(tokens, *rest):
        widest.append(tokens.shape[1])
        return step(tokens, *rest)

    exact_search(watched, ItemTrie.from_sequences(sequences), 10, 1.0, START, nodes_per_step=4)
    assert max(widest) == 4
