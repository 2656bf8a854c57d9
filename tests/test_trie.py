"""The item trie: whatever the lexical IDs and the form they come in, it holds them all and says what lies below."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gram import ItemTrie

END = 1

# Small alphabets and short IDs, so that many IDs share prefixes and some are the prefix of another.
catalogues = st.lists(
    st.lists(st.integers(2, 7), min_size=0, max_size=5).map(tuple), min_size=1, max_size=40, unique=True
).map(lambda ids: [[*tokens, END] for tokens in ids])


def as_array(sequences, width=0, dtype=np.int32) -> np.ndarray:
    padded = np.full((len(sequences), max(width, *map(len, sequences), 1)), -1, dtype=dtype)
    for row, tokens in zip(padded, sequences, strict=True):
        row[: len(tokens)] = tokens
    return padded


def prefixes_of(sequences) -> list[tuple[int, ...]]:
    """The prefix of every node: level by level, in lexicographic order."""
    prefixes = {tuple(tokens[:length]) for tokens in sequences for length in range(len(tokens) + 1)}
    return sorted(prefixes, key=lambda prefix: (len(prefix), prefix))


@given(catalogues, st.randoms())
def test_nodes_are_the_prefixes_in_order(sequences, random):
    rows = random.sample(range(60), len(sequences))
    trie, prefixes = ItemTrie.from_sequences(sequences, rows), prefixes_of(sequences)
    nodes = {prefix: node for node, prefix in enumerate(prefixes)}
    first_of_level = [min(n for n, p in enumerate(prefixes) if len(p) == level) for level in range(trie.depth)]
    children, exists = trie.expand(torch.arange(len(prefixes))[None], None)
    for node, prefix in enumerate(prefixes):
        below = [n for n, other in enumerate(prefixes) if other[:-1] == prefix and other]
        assert children[0, node][exists[0, node]].tolist() == below
        assert int(trie.sizes[node]) == sum(tuple(tokens[: len(prefix)]) == prefix for tokens in sequences)
    assert trie.tokens.tolist() == [-1, *(prefix[-1] for prefix in prefixes[1:])]
    assert all(int(trie.leaves[row]) == nodes[tuple(tokens)] for row, tokens in zip(rows, sequences, strict=True))
    assert all(trie.items[trie.leaves[row]] == row for row in rows)
    assert sorted(set(trie.leaves.tolist()) - {-1}) == (trie.items >= 0).nonzero().flatten().tolist()
    for level, first in enumerate(first_of_level):
        of_level = [n for n, prefix in enumerate(prefixes) if n >= first and len(prefix) == level]
        assert trie.expand(torch.tensor([of_level]), level)[1].sum(-1).max() == trie.fan_out[level]


@given(catalogues, st.randoms(), st.integers(0, 8), st.sampled_from([np.int8, np.int32, np.int64]))
def test_an_array_gives_the_trie_of_the_lists(sequences, random, width, dtype):
    rows = random.choice([None, random.sample(range(60), len(sequences))])
    array = as_array(sequences, width, dtype)
    expected = ItemTrie.from_sequences(sequences, rows)
    for form in (array, np.asfortranarray(array), torch.from_numpy(array)):
        trie = ItemTrie.from_sequences(form, rows)
        for name, buffer in expected.state_dict().items():
            torch.testing.assert_close(trie.state_dict()[name], buffer, rtol=0, atol=0)


@given(catalogues)
def test_deepest_leaves(sequences):
    trie, prefixes = ItemTrie.from_sequences(sequences), prefixes_of(sequences)
    lengths = [
        [len(tokens) - len(prefix) for tokens in sequences if tuple(tokens[: len(prefix)]) == prefix]
        for prefix in prefixes
    ]
    nodes = torch.arange(len(prefixes))
    assert trie.deepest(nodes).tolist() == list(map(max, lengths))


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "at least one"),
        ([[2, END], []], "sequence 1 is empty"),
        ([[2, END], [3, 4]], "sequence 1 must end"),
        ([[2, END], [3, END, 4, END]], "sequence 1 must end"),
        ([[2, END], [3, END], [2, END]], "sequences 0 and 2 are equal"),
        ([[2, END], [3, -2, END]], "sequence 1 holds a token below 0"),
        ([[2, END], [3, END, -1]], "sequence 1 holds a token below 0"),
        (np.zeros((0, 3), dtype=np.int32), "at least one"),
        (np.array([[2, END], [-1, -1]]), "sequence 1 is empty"),
        (np.array([[2, END, -1], [3, 4, -1]]), "sequence 1 must end"),
        (np.array([[2, END, -1], [3, -1, END]]), "sequence 1 .* not padded at its end"),
        (np.array([[2, END], [3, END], [2, END]]), "sequences 0 and 2 are equal"),
        (np.array([2, END]), "(items, tokens)"),
        (np.array([[2.0, END]]), "signed integers"),
        (np.array([[2, END]], dtype=np.uint16), "signed integers"),
    ],
)
def test_lexical_ids_that_make_no_trie_are_named(sequences, message):
    with pytest.raises(ValueError, match=message):
        ItemTrie.from_sequences(sequences)
