"""Naming the tree: every node gets one token of the vocabulary, and the path to an item becomes its lexical ID.

Source: GRAM (arXiv 2506.01673), semantic-to-lexical translation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..common.extras import needs
from .tokens import DIGITS, SPACE

with needs("train"):
    from scipy import sparse

TF_TOKENS = 128  # term frequency looks at the start of a text only, document frequency at all of it
NUM_CANDIDATES = 50
MAX_FAN_OUT = 1024
_BLOCK = 1 << 14  # texts or nodes that are worked on at once


def name_items(
    paths: np.ndarray,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_fan_out: int = MAX_FAN_OUT,
    blocked: Collection[str] = (),
    progress: bool = False,
) -> list[list[str]]:
    """Lexical IDs for the items of a cluster tree.

    A token's weight in an item is its share of the first 128 tokens of the text, in lower case, times
    `log(1 + (N - df + 0.5) / (df + 0.5))`. Its weight in a node is the mean over the node's items, and the 50 heaviest
    are the node's candidates. From the root down each node takes its heaviest candidate that no ancestor on the path
    has taken. Below its leaf an item goes on as a chain of nodes of its own, so that an ID has as many tokens as the
    tree may have levels, or as many as its text has to offer: the authors' IDs are as long.

    Clusters of one parent never share a token while they have candidates: the cluster in which a token weighs most
    gets it, the others take their next. Single items do share tokens, and part further down, which groups them by
    brand or kind once more; only at the last level are they kept apart as clusters are. On Beauty no item then needs
    a suffix, and the second level has 7,477 nodes; with all siblings kept apart it would have 10,696.

    A path ends where a node has no candidate. Items that end with the same path, or with an empty one, get a numeric
    suffix in catalogue order, digit by digit. It can't be mistaken for a path: specials, bare `▁` and tokens of one
    character never stand in one.

    Args:
        paths: (N, depth) int, of `cluster_hierarchy`.
        texts: N texts.
        tokenizer: whose vocabulary the tokens are taken from.
        max_fan_out: the most tokens that may follow one beginning of an ID, digits of suffixes aside. Nodes that come
            too late share a token that is there already.
        blocked: words that no ID may show: tokens, with or without the mark of a space, in upper or lower case.
        progress: show a bar while the texts are read.

    Returns:
        N lists of tokens, no two alike, none empty, without an end token.

    Raises:
        ValueError: a suffix is needed and the vocabulary lacks a digit.
    """
    weights = token_weights(texts, tokenizer, blocked, progress)
    token_paths, groups = _name_tree(paths, weights, max_fan_out)
    return _spell(token_paths, groups, tokenizer)


def token_weights(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, blocked: Collection[str] = (), progress: bool = False
) -> sparse.csr_matrix:
    """(N, V) weights of the tokens that may name a node, as [`name_items`] has them; never dense."""
    vocabulary, blocks = len(tokenizer), []
    frequency = np.zeros(vocabulary, dtype=np.int64)
    with tqdm(total=len(texts), desc="item texts", unit="item", disable=not progress, leave=False) as bar:
        for start in range(0, len(texts), _BLOCK):
            some = [text.lower() for text in texts[start : start + _BLOCK]]
            encoded = tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]
            frequency += np.bincount(_count_tokens(encoded, vocabulary).indices, minlength=vocabulary)
            starts = [ids[:TF_TOKENS] for ids in encoded]
            lengths = np.array([max(len(ids), 1) for ids in starts])
            blocks.append(sparse.diags(1 / lengths) @ _count_tokens(starts, vocabulary))
            bar.update(len(some))
    weights = sparse.vstack(blocks, format="csr")
    idf = np.log1p((len(texts) - frequency + 0.5) / (frequency + 0.5))
    weights.data *= (idf * _may_name(tokenizer, blocked))[weights.indices]
    weights.eliminate_zeros()
    return weights


def _count_tokens(encoded: Sequence[Sequence[int]], vocabulary: int) -> sparse.csr_matrix:
    """(n, V) how often each text has each token."""
    tokens = np.concatenate([np.asarray(ids, dtype=np.int32) for ids in encoded])
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])])
    counts = sparse.csr_matrix((np.ones(len(tokens)), tokens, offsets), shape=(len(encoded), vocabulary))
    counts.sum_duplicates()
    return counts


def _may_name(tokenizer: PreTrainedTokenizerBase, blocked: Collection[str]) -> np.ndarray:
    """(V,) bool: False for specials, bare `▁`, tokens of one character and blocked words."""
    words = {word.replace(SPACE, "").lower() for word in blocked}
    tokens = [(token or "").replace(SPACE, "") for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    allowed = np.array([len(token) > 1 and token.lower() not in words for token in tokens])
    allowed[tokenizer.all_special_ids] = False
    return allowed


def _name_tree(paths: np.ndarray, weights: sparse.csr_matrix, max_fan_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Token paths of the items, (N, depth) int32 and -1 behind their ends, and (N,) int64, equal for equal paths.

    Nodes are named level by level, all children of one named parent together.
    """
    num_items, depth = paths.shape
    token_paths = np.full((num_items, depth), -1, dtype=np.int32)
    groups = np.zeros(num_items, dtype=np.int64)
    node_of = np.zeros(num_items, dtype=np.int64)  # node of the cluster tree that each item is in
    going = np.arange(num_items)  # items whose path has not ended
    of_items = heaviest(weights)
    for level in range(depth):
        # Below its leaf an item is a node of its own.
        child = np.where(paths[going, level] >= 0, paths[going, level], going)
        _, first, node = np.unique(node_of[going] * (num_items + 1) + child, return_index=True, return_inverse=True)
        node_of[going] = node
        sizes, first_item = np.bincount(node), going[first]
        large = np.flatnonzero(sizes > 1)
        row = first_item.copy()
        row[large] = num_items + np.arange(len(large))
        of_clusters = heaviest(_means(node, sizes, large, weights[going]))
        candidates = sparse.vstack([of_items, of_clusters], format="csr")
        namer = _Namer(candidates, row, groups[first_item], token_paths[first_item, :level], sizes)
        names = namer.names(level == depth - 1, max_fan_out)
        named = names[node] >= 0
        going = going[named]
        token_paths[going, level] = names[node[named]]
        keys = groups[going] * weights.shape[1] + token_paths[going, level]
        groups[going] = np.unique(keys, return_inverse=True)[1] + groups.max() + 1
    return token_paths, groups


def _means(node: np.ndarray, sizes: np.ndarray, large: np.ndarray, weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """(len(large), V) mean weights over the items of the nodes of more than one."""
    place = np.full(len(sizes), -1)
    place[large] = np.arange(len(large))
    members = np.flatnonzero(place[node] >= 0)
    shares = (1 / sizes[node[members]], (place[node[members]], members))
    means = (sparse.csr_matrix(shares, (len(large), len(node))) @ weights).tocsr()
    means.sort_indices()
    return means


def heaviest(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each row's candidates for its name: its 50 heaviest tokens alone, heaviest first, equal ones by token."""
    blocks = []
    for start in range(0, weights.shape[0], _BLOCK):
        block = weights[start : start + _BLOCK]
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        order = np.lexsort((block.indices, -block.data, rows))
        best = order[np.arange(len(order)) - block.indptr[rows] < NUM_CANDIDATES]
        offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(block.indptr), NUM_CANDIDATES))])
        blocks.append(sparse.csr_matrix((block.data[best], block.indices[best], offsets), block.shape))
    return sparse.vstack(blocks, format="csr") if blocks else weights


class _Namer:
    """Names the n nodes of one level.

    `candidates` are those of [`heaviest`], `row` (n,) is each node's among them, `groups` (n,) are equal for the nodes
    of one named parent, `paths` (n, level) hold the tokens of the ancestors, `sizes` (n,) count the items.
    """

    def __init__(self, candidates, row, groups, paths, sizes):
        self.candidates, self.paths, self.sizes = candidates, paths, sizes
        self.start, self.end = candidates.indptr[row], candidates.indptr[row + 1]
        self.groups = np.unique(groups, return_inverse=True)[1]

    def names(self, last_level: bool, max_fan_out: int) -> np.ndarray:
        """(n,) int32 the token of each node, -1 for one without candidates."""
        first = self._first()
        names = np.where(first < self.end, self._token(first), -1).astype(np.int32)
        apart = np.bincount(self.groups) > 1
        if not last_level:
            largest = np.zeros(len(apart), dtype=np.int64)
            np.maximum.at(largest, self.groups, self.sizes)
            apart &= largest > 1
        rivals = np.flatnonzero(apart[self.groups])
        rivals = rivals[np.argsort(self.groups[rivals], kind="stable")]
        bounds = np.unique(self.groups[rivals], return_index=True)[1]  # where each group starts
        for some in np.split(rivals, bounds[1:][np.diff(bounds[1:] // _BLOCK, prepend=0) > 0]):
            self._share_out(some, first, names)
        self._cap(names, max_fan_out)
        return names

    def _token(self, place: np.ndarray) -> np.ndarray:
        """Tokens at places among the candidates; any, where a place is behind the last."""
        tokens = self.candidates.indices
        return tokens[np.minimum(place, len(tokens) - 1)] if len(tokens) else np.full(len(place), -1, np.int32)

    def _first(self) -> np.ndarray:
        """(n,) the first place of each node's candidates that no ancestor's token stands at, or their end."""
        place, moving = self.start.copy(), np.arange(len(self.start))
        while len(moving):
            taken = (self._token(place[moving])[:, None] == self.paths[moving]).any(axis=1)
            moving = moving[taken & (place[moving] < self.end[moving])]
            place[moving] += 1
        return place

    def _share_out(self, nodes: np.ndarray, first: np.ndarray, names: np.ndarray) -> None:
        """Name the nodes of some groups: in each the heaviest pair of a free node and a free token comes first.

        Equal weights go by token, then by node. A node that is left without a token keeps the name that it has.
        """
        counts = self.end[nodes] - first[nodes]
        node = np.repeat(nodes, counts)
        place = np.arange(len(node)) + np.repeat(first[nodes] + counts - counts.cumsum(), counts)
        tokens = self.candidates.indices[place]
        order = np.lexsort((node, tokens, -self.candidates.data[place]))
        order = order[~(tokens[order, None] == self.paths[node[order]]).any(axis=1)]
        named, taken = set(), set()
        triples = (node[order].tolist(), self.groups[node[order]].tolist(), tokens[order].tolist())
        for one, group, token in zip(*triples, strict=True):
            if one not in named and (group, token) not in taken:
                names[one] = token
                named.add(one)
                taken.add((group, token))

    def _cap(self, names: np.ndarray, max_fan_out: int) -> None:
        """Let the children of too wide a parent share the tokens that most items have."""
        named = np.flatnonzero(names >= 0)
        pairs = np.unique(np.stack([self.groups[named], names[named]]), axis=1)
        for group in np.flatnonzero(np.bincount(pairs[0], minlength=1) > max_fan_out):
            nodes = named[self.groups[named] == group]
            tokens, inverse = np.unique(names[nodes], return_inverse=True)
            items = np.bincount(inverse, self.sizes[nodes])
            kept = np.argsort(-items, kind="stable")[:max_fan_out]
            load = dict(zip(tokens[kept].tolist(), items[kept].tolist(), strict=True))
            for node in nodes[~np.isin(names[nodes], tokens[kept])]:
                wishes = self.candidates.indices[self.start[node] : self.end[node]].tolist()
                ancestors = set(self.paths[node].tolist())
                fits = (wish for wish in wishes if wish in load and wish not in ancestors)
                names[node] = next(fits, None) or min(load, key=lambda token: (load[token], token))
                load[int(names[node])] += int(self.sizes[node])


def _spell(token_paths: np.ndarray, groups: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """The paths in tokens, with a numeric suffix where one is empty or not the only one of its kind."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    alone = (sizes[group] == 1) & (token_paths[:, 0] >= 0)
    tokens = np.array([*tokenizer.convert_ids_to_tokens(range(len(tokenizer))), ""], dtype=object)
    lengths = (token_paths >= 0).sum(axis=1)
    lexical_ids = [row[:length] for row, length in zip(tokens[token_paths].tolist(), lengths.tolist(), strict=True)]
    if not alone.all():
        digits = digit_tokens(tokenizer)
        seen: dict[int, int] = {}
        for item in np.flatnonzero(~alone).tolist():
            number = seen[group[item]] = seen.get(group[item], -1) + 1
            lexical_ids[item] += [digits[digit] for digit in str(number)]
    return lexical_ids


def digit_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The digits as the vocabulary has them, with or without the mark of a space."""
    vocabulary = tokenizer.get_vocab()
    found = {digit: next((t for t in (digit, SPACE + digit) if t in vocabulary), None) for digit in DIGITS}
    for digit, token in found.items():
        if token is None:
            raise ValueError(f"the vocabulary has no token for the digit {digit}, which a numeric suffix needs; add it")
    return found
