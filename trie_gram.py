"""The catalogue's lexical IDs as a prefix tree of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import torch
from torch import nn


class ItemTrie(nn.Module):
    """Prefix tree of a catalogue's lexical IDs, as tensors in compressed sparse rows.

    Nodes are numbered level by level and, within a level, in the lexicographic order of their paths. So the children
    of node `n` are the nodes `offsets[n] ... offsets[n + 1] - 1`, and no list of edges is needed. Node 0 is the root.

    Buffers (`N` nodes, `I` items, `D` levels, all int32):
        offsets (N + 1,): first child of each node.
        tokens (N,): token on the edge into the node; the root's is -1.
        items (N,): catalogue row of the item that ends here; -1 at inner nodes.
        sizes (N,): number of items below the node.
        leaves (I,): node where an item ends; -1 for catalogue rows that this trie leaves out.
        fan_out (D,): most children of any node of each level.
    """

    def __init__(self, num_items: int = 0, num_nodes: int = 0, depth: int = 0):
        super().__init__()
        shapes = {"offsets": num_nodes + 1, "tokens": num_nodes, "items": num_nodes, "sizes": num_nodes}
        for name, size in {**shapes, "leaves": num_items, "fan_out": depth}.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.int32))

    @property
    def num_items(self) -> int:
        """Rows of the catalogue, those that this trie leaves out included."""
        return len(self.leaves)

    @property
    def num_nodes(self) -> int:
        """Nodes, the root included."""
        return len(self.tokens)

    @property
    def depth(self) -> int:
        """Tokens of the longest lexical ID, end token included."""
        return len(self.fan_out)

    @classmethod
    def from_sequences(cls, sequences: Sequence[Sequence[int]], rows: Sequence[int] | None = None) -> ItemTrie:
        """Build the trie of lexical IDs.

        Args:
            sequences: one list of token ids per item, each ending with the end token; any lengths, in any order.
            rows: catalogue row of each sequence; by default its position. Give it to restrict a catalogue to a subset.

        Raises:
            ValueError: no sequences; an empty one; one that does not end with the end token or holds it earlier; two
                equal ones.
        """
        padded, end = _padded(sequences)
        order = np.lexsort(padded.T[::-1])
        padded = padded[order]
        rows = np.arange(len(padded)) if rows is None else np.asarray(rows)
        differs = padded[1:] != padded[:-1]
        twins = np.flatnonzero(~differs.any(axis=1))
        if len(twins):
            first, second = sorted(order[twins[0] : twins[0] + 2].tolist())
            raise ValueError(f"sequences {first} and {second} are equal: every item needs a lexical ID of its own")
        first_difference = np.concatenate(([0], differs.argmax(axis=1)))

        tokens, items, parents, base = [np.array([-1])], [np.array([-1])], [], 0
        node_of_row = np.zeros(len(padded), dtype=np.int64)
        for level, column in enumerate(padded.T):
            starts = np.flatnonzero((first_difference <= level) & (column >= 0))
            parents.append(node_of_row[starts])
            base += len(tokens[-1])
            node_of_row = np.searchsorted(starts, np.arange(len(padded)), side="right") - 1 + base
            tokens.append(column[starts])
            items.append(np.where(column[starts] == end, rows[order[starts]], -1))
        tokens, items = np.concatenate(tokens), np.concatenate(items)

        levels = np.cumsum([0, 1, *(len(level) for level in parents)])
        num_children = np.bincount(np.concatenate(parents), minlength=len(tokens))
        sizes = (items >= 0).astype(np.int64)
        for level in range(len(parents) - 1, -1, -1):
            below = sizes[levels[level + 1] : levels[level + 2]]
            sizes += np.bincount(parents[level], weights=below, minlength=len(sizes)).astype(np.int64)

        trie = cls(int(rows.max()) + 1, len(tokens), len(parents))
        trie.offsets = _int32(np.concatenate(([1], 1 + np.cumsum(num_children))))
        trie.tokens, trie.items, trie.sizes = _int32(tokens), _int32(items), _int32(sizes)
        trie.leaves.fill_(-1)
        ends = np.flatnonzero(items >= 0)
        trie.leaves[torch.from_numpy(items[ends])] = _int32(ends)
        trie.fan_out = _int32([num_children[a:b].max() for a, b in pairwise(levels[:-1])])
        return trie

    def expand(self, nodes: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Children of nodes of one level.

        Args:
            nodes (B, W): node indices, all of this level.
            level: distance from the root.

        Returns:
            Child nodes (B, W, F), F the level's largest fan-out, and a mask that is False beyond a node's own children.
        """
        first, after = self.offsets[nodes], self.offsets[nodes + 1]  # (B, W)
        children = first[..., None] + torch.arange(int(self.fan_out[level]), device=nodes.device)  # (B, W, F)
        exists = children < after[..., None]
        return children.masked_fill(~exists, 0).long(), exists

    def paths(self, leaves: torch.Tensor) -> torch.Tensor:
        """Nodes (..., D) from each leaf (...) up to the root's child, then the root, 0, again and again."""
        path = [leaves]
        for _ in range(self.depth - 1):
            parent = torch.searchsorted(self.offsets, path[-1].to(self.offsets.dtype), right=True) - 1
            path.append(parent.clamp(min=0))
        return torch.stack(path, dim=-1)

    def sequences(self, leaves: torch.Tensor, pad_token_id: int) -> torch.Tensor:
        """Lexical IDs (..., D) of the items that end at `leaves` (...), padded at the end; all padding for -1."""
        path = self.paths(leaves.clamp(min=0))
        position = (path > 0).sum(-1, keepdim=True) - 1 - torch.arange(self.depth, device=path.device)
        tokens = self.tokens[path.gather(-1, position.clamp(min=0))].long()
        return tokens.masked_fill(position < 0, pad_token_id)

    def exhausted_nodes(self, excluded_items: torch.Tensor) -> torch.Tensor:
        """Nodes below which every item is excluded.

        Args:
            excluded_items (B, E): catalogue rows that a user must not get, padded with -1.

        Returns:
            Sorted keys (X,), each `user * num_nodes + node`.
        """
        users = torch.arange(len(excluded_items), device=excluded_items.device)[:, None]  # (B, 1)
        leaves = self.leaves[excluded_items.clamp(min=0)].long()  # (B, E)
        keys = torch.unique((users * self.num_nodes + leaves)[(excluded_items >= 0) & (leaves >= 0)])
        path = self.paths(keys % self.num_nodes)  # (L, D)
        keys = (keys[:, None] // self.num_nodes * self.num_nodes + path)[path > 0]
        keys, counts = torch.unique(keys, return_counts=True)
        return keys[counts == self.sizes[keys % self.num_nodes]]


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[np.ndarray, int]:
    """Sequences (I, D) as int32, padded with -1, and their end token; checks that each ends with it and only there."""
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    if len(lengths) == 0:
        raise ValueError("an item trie needs at least one lexical ID")
    if lengths.min() == 0:
        raise ValueError(f"sequence {int(lengths.argmin())} is empty: a lexical ID ends with the end token")
    flat = np.fromiter(chain.from_iterable(sequences), dtype=np.int32, count=int(lengths.sum()))
    padded = np.full((len(lengths), lengths.max()), -1, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat
    end = int(padded[0, lengths[0] - 1])
    misplaced = (padded == end) != (np.arange(padded.shape[1]) == lengths[:, None] - 1)
    if misplaced.any():
        row = int(misplaced.any(axis=1).argmax())
        raise ValueError(f"sequence {row} must end with the end token {end}, and hold it nowhere else")
    return padded, end


def _int32(values) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int32))
