"""Naming the tree: every node gets one token of the vocabulary, and the path to an item becomes its lexical ID.

Source: GRAM (arXiv 2506.01673), semantic-to-lexical translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
from scipy import sparse
from transformers import PreTrainedTokenizerBase

TF_TOKENS = 128  # term frequency looks at the start of a text only, document frequency at all of it
NUM_CANDIDATES = 50
SPACE = "▁"  # stands for the space before a word in sentencepiece's vocabularies
DIGITS = "0123456789"

Candidates = list[tuple[float, int]]  # (minus weight, token), heaviest first, equal ones by token


def name_items(paths: np.ndarray, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """Lexical IDs for the items of a cluster tree.

    A token's weight in an item is its share of the first 128 tokens of the text, in lower case, times
    `log(1 + (N - df + 0.5) / (df + 0.5))`. Its weight in a node is the mean over the node's items, and the 50 heaviest
    are the node's candidates. From the root down each node takes its heaviest candidate that no ancestor on the path
    has taken. Below its leaf an item goes on as a chain of nodes of its own, so that an ID has as many tokens as the
    tree may have levels, or as many as its text has to offer: the authors' IDs are as long.

    Clusters of one parent never share a token while they have candidates: the cluster in which a token weighs most
    gets it, the others take their next. Single items do share tokens, and part further down, which groups them by
    brand or kind once more; only at the last level are they kept apart as clusters are. On Beauty (128 clusters, 7
    levels) no item then needs a suffix. If every node took its best token, as the authors' do, 107 of 128 first
    tokens would be left and 360 items would need one. If all siblings were kept apart, none would need one either,
    but the second level would have 10,696 nodes instead of 7,477.

    A node without candidates takes no token. Items that end with the same path, or with an empty one, get a numeric
    suffix in catalogue order, digit by digit. It can't be mistaken for a path: specials, bare `▁` and tokens of one
    character never stand in one.

    Args:
        paths: (N, depth) int, from `cluster_hierarchy`.
        texts: N texts.
        tokenizer: whose vocabulary the tokens are taken from.

    Returns:
        N lists of tokens, no two alike, none empty, without an end token.

    Raises:
        ValueError: a suffix is needed and the vocabulary lacks a digit.
    """
    token_paths = _name_tree(paths, _token_weights(texts, tokenizer))
    return _tell_apart([tokenizer.convert_ids_to_tokens(path) for path in token_paths], tokenizer)


def _token_weights(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> sparse.csr_matrix:
    """(N, V) weights of the tokens that may name a node; never dense."""
    encoded = tokenizer([text.lower() for text in texts], add_special_tokens=False, verbose=False)["input_ids"]
    starts = [ids[:TF_TOKENS] for ids in encoded]
    lengths = np.array([max(len(ids), 1) for ids in starts])
    counts = _count_tokens(starts, len(tokenizer))
    frequency = np.bincount(_count_tokens(encoded, len(tokenizer)).indices, minlength=len(tokenizer))
    idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
    weights = (sparse.diags(1 / lengths) @ counts @ sparse.diags(idf * _may_name(tokenizer))).tocsr()
    weights.eliminate_zeros()
    return weights


def _count_tokens(encoded: Sequence[Sequence[int]], vocabulary: int) -> sparse.csr_matrix:
    """(N, V) how often each text has each token."""
    tokens = np.fromiter(chain.from_iterable(encoded), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])])
    counts = sparse.csr_matrix((np.ones(len(tokens)), tokens, offsets), shape=(len(encoded), vocabulary))
    counts.sum_duplicates()
    return counts


def _may_name(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(V,) bool: False for specials, bare `▁` and tokens of one character."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    allowed = np.array([token is not None and len(token.replace(SPACE, "")) > 1 for token in tokens])
    allowed[tokenizer.all_special_ids] = False
    return allowed


def _name_tree(paths: np.ndarray, weights: sparse.csr_matrix) -> list[list[int]]:
    """The token path of every item. Nodes are named level by level, all children of one named parent together."""
    num_items, depth = paths.shape
    token_paths: list[list[int]] = [[] for _ in range(num_items)]
    node_of = np.zeros(num_items, dtype=np.int64)  # node of the cluster tree that each item is in
    for level in range(depth):
        # Below its leaf an item is a node of its own.
        child = np.where(paths[:, level] >= 0, paths[:, level], np.arange(num_items))
        _, first_item, node_of = np.unique(
            node_of * (child.max(initial=0) + 1) + child, return_index=True, return_inverse=True
        )
        candidates, sizes = _candidates(node_of, weights), np.bincount(node_of)
        siblings: dict[tuple[int, ...], list[int]] = {}
        for node, item in enumerate(first_item):
            siblings.setdefault(tuple(token_paths[item]), []).append(node)
        names: dict[int, int] = {}
        for path, nodes in siblings.items():
            wishes = {node: [wish for wish in candidates[node] if wish[1] not in path] for node in nodes}
            apart = level == depth - 1 or sizes[nodes].max() > 1
            names.update(_name_siblings(wishes, apart))
        for item, node in enumerate(node_of.tolist()):
            if node in names:
                token_paths[item].append(names[node])
    return token_paths


def _candidates(node_of: np.ndarray, weights: sparse.csr_matrix) -> list[Candidates]:
    """The candidates of every node, whoever their ancestors are."""
    sizes = np.bincount(node_of)
    shares = sparse.csr_matrix((1 / sizes[node_of], (node_of, np.arange(len(node_of)))), (len(sizes), len(node_of)))
    means = (shares @ weights).tocsr()  # (nodes, V)
    found = []
    for start, end in zip(means.indptr[:-1], means.indptr[1:], strict=True):
        tokens, values = means.indices[start:end], -means.data[start:end]
        best = np.lexsort((tokens, values))[:NUM_CANDIDATES]
        found.append(list(zip(values[best].tolist(), tokens[best].tolist(), strict=True)))
    return found


def _name_siblings(wishes: dict[int, Candidates], apart: bool) -> dict[int, int]:
    """A token for every node that has candidates; `apart`: each its own, as far as they go."""
    names: dict[int, int] = {}
    if apart:
        taken: set[int] = set()
        by_weight = sorted((value, token, node) for node, pairs in wishes.items() for value, token in pairs)
        for _, token, node in by_weight:
            if node not in names and token not in taken:
                names[node] = token
                taken.add(token)
    return {node: names.get(node, pairs[0][1]) for node, pairs in wishes.items() if pairs}


def _tell_apart(token_paths: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """The paths, with a numeric suffix where one is empty or not the only one of its kind."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for item, path in enumerate(token_paths):
        groups.setdefault(tuple(path), []).append(item)
    lexical_ids = [list(path) for path in token_paths]
    for path, items in groups.items():
        if len(items) > 1 or not path:
            digits = _digit_tokens(tokenizer)
            for number, item in enumerate(items):
                lexical_ids[item] += [digits[digit] for digit in str(number)]
    return lexical_ids


def _digit_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The digits as the vocabulary has them, with or without the mark of a space."""
    vocabulary = tokenizer.get_vocab()
    found = {digit: next((t for t in (digit, SPACE + digit) if t in vocabulary), None) for digit in DIGITS}
    for digit, token in found.items():
        if token is None:
            raise ValueError(f"the vocabulary has no token for the digit {digit}, which a numeric suffix needs; add it")
    return found
