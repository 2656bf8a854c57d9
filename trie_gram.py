"""The catalogue's lexical IDs as a prefix tree of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np
import torch
from torch import nn

_SUBSET_BYTES = 1 << 28  # of memory for the sets of items that were asked for last


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

    Example:
        >>> from gram import ItemTrie
        >>> trie = ItemTrie.from_sequences([[5, 8, 1], [5, 9, 1], [7, 1]])  # three lexical IDs; 1 is the end token
        >>> trie.num_items, trie.num_nodes, trie.depth
        (3, 8, 3)
    """

    def __init__(self, num_items: int = 0, num_nodes: int = 0, depth: int = 0):
        super().__init__()
        shapes = {"offsets": num_nodes + 1, "tokens": num_nodes, "items": num_nodes, "sizes": num_nodes}
        for name, size in {**shapes, "leaves": num_items, "fan_out": depth}.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.int32))
        self._starts: torch.Tensor | None = None
        self._subsets: dict[bytes, torch.Tensor] = {}  # of [`ItemSubset`], the latest at the end

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
    def from_sequences(
        cls,
        sequences: Sequence[Sequence[int]] | np.ndarray | torch.Tensor,
        rows: Sequence[int] | None = None,
        num_rows: int | None = None,
    ) -> ItemTrie:
        """Build the trie of lexical IDs.

        Args:
            sequences: one list of token ids per item, each ending with the end token, of any lengths and in any order;
                or, what needs the least memory, an integer array (I, D) of the same, padded at the end with -1.
            rows: catalogue row of each sequence; by default its position. Give it to restrict a catalogue to a subset.
            num_rows: rows of the catalogue; by default it ends with the last of `rows`.

        Raises:
            ValueError: no sequences; an empty one; one that does not end with the end token or holds it earlier; two
                equal ones; a token below 0; an array that is not (I, D) integers.
        """
        # A catalogue may have 10 million items: whatever is held per item is narrow, and only one level is in work.
        padded = _as_array(sequences)
        lengths, end = _checked(padded)
        padded = padded[:, : lengths.max()]  # (I, D)
        order = np.lexsort(padded.T[::-1]).astype(np.int32)  # (I,)
        lengths = lengths[order]
        first_difference = _first_difference(padded, order)  # (I,)
        rows = order if rows is None else np.asarray(rows, dtype=np.int32)[order]

        depth = padded.shape[1]
        counts = [np.count_nonzero((first_difference <= level) & (lengths > level)) for level in range(depth)]
        levels = np.cumsum([0, 1, *counts])  # first node of each level, and of the one after the last
        with torch.device("cpu"):  # whatever the default device is: it is built in NumPy
            trie = cls(max(int(rows.max()) + 1, num_rows or 0), int(levels[-1]), depth)
        offsets, tokens, items, sizes, leaves, fan_out = (buffer.numpy() for buffer in trie.buffers())
        tokens[0], items[:], sizes[0], leaves[:] = -1, -1, len(padded), -1
        offsets[levels[-2] :] = levels[-1]  # below the last level there is nothing
        starts = np.zeros(1, dtype=np.int32)  # the first item, in order, of each node of the level above
        for level, (base, after) in enumerate(pairwise(levels[1:])):
            parents = starts
            groups = np.flatnonzero(first_difference <= level).astype(np.int32)  # an ID that has ended is one of them
            here = lengths[groups] > level
            starts = groups[here]
            sizes[base:after] = np.diff(groups, append=np.int32(len(padded)))[here]
            del groups, here
            tokens[base:after] = padded[order[starts], level]
            offsets[levels[level] : base] = base + np.searchsorted(starts, parents)
            fan_out[level] = np.diff(offsets[levels[level] : base], append=np.int32(after)).max()
            ends = np.flatnonzero(tokens[base:after] == end)
            items[base + ends] = rows[starts[ends]]
            leaves[rows[starts[ends]]] = base + ends
        return trie

    def expand(self, nodes: torch.Tensor, level: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Children of nodes (B, W), which are all of this level, or of any.

        Returns:
            Child nodes (B, W, F), 0 beyond a node's own children, and a mask that is False there. F is the level's
            largest fan-out; where none is given, the largest of these nodes.

        Raises:
            ValueError: the trie is empty, as that of a model is which was made from a configuration alone.

        Example:
            >>> trie = ItemTrie.from_sequences([[5, 8, 1], [5, 9, 1], [7, 1]])
            >>> children, exists = trie.expand(torch.tensor([[0]]))
            >>> trie.tokens[children]
            tensor([[[5, 7]]], dtype=torch.int32)
        """
        first, after = self.offsets[nodes], self.offsets[nodes + 1]  # (B, W)
        counts = after - first
        fan_out = nn.functional.pad(counts.flatten(), (0, 1)).max() if level is None else self.fan_out[level]
        if not fan_out and not self.sizes[0]:
            raise ValueError("the model's item trie is empty: call `set_item_trie`, or load a model that has one")
        children = first[..., None] + torch.arange(int(fan_out), device=nodes.device)  # (B, W, F)
        exists = children < after[..., None]
        return children.masked_fill(~exists, 0).long(), exists

    def deepest(self, nodes: torch.Tensor) -> torch.Tensor:
        """Levels from each node (...) down to the deepest leaf below it, 0 at a leaf."""
        first, after = nodes, nodes + 1  # what is below a node is a run of nodes on every level
        distance = torch.zeros_like(nodes)
        for _ in range(self.depth):
            first, after = self.offsets[first], self.offsets[after]
            distance += first < after
        return distance

    def paths(self, leaves: torch.Tensor) -> torch.Tensor:
        """Nodes (..., D) from the root's child down to each leaf (...), then the root, 0, again and again."""
        path = [leaves]
        for _ in range(self.depth - 1):
            parent = torch.searchsorted(self.offsets, path[-1].to(self.offsets.dtype), right=True) - 1
            path.append(parent.clamp(min=0))
        path = torch.stack(path[::-1], dim=-1)
        return path.gather(-1, (path == 0).to(torch.int8).argsort(dim=-1, stable=True))

    def sequences(self, leaves: torch.Tensor, pad_token_id: int) -> torch.Tensor:
        """Lexical IDs (..., D) of the items that end at `leaves` (...), padded at the end; all padding for -1."""
        path = self.paths(leaves.clamp(min=0))
        return self.tokens[path].long().masked_fill(path == 0, pad_token_id)

    def legal_tokens(self, sequences: torch.Tensor) -> torch.Tensor:
        """Tokens (N, T, F) that the trie allows at each place of lexical IDs (N, T), -1 where there are no more.

        Places behind the end of an ID are negative.

        Raises:
            ValueError: a sequence is none of the trie's lexical IDs, nor the beginning of one.

        Example:
            >>> trie = ItemTrie.from_sequences([[5, 8, 1], [5, 9, 1], [7, 1]])
            >>> trie.legal_tokens(torch.tensor([[5, 9, 1]])).tolist()
            [[[5, 7], [8, 9], [1, -1]]]
        """
        nodes, wrong, found = sequences.new_zeros(len(sequences)), sequences.new_zeros(len(sequences)).bool(), []
        for level, wanted in enumerate(sequences.T):
            if level == self.depth:
                wrong |= (sequences[:, level:] >= 0).any(dim=1)
                break
            is_here = wanted >= 0
            wrong |= is_here & (sequences[:, :level] < 0).any(dim=1)
            children, exists = self.expand(nodes[:, None], level)  # (N, 1, F)
            children, exists = children[:, 0], exists[:, 0] & is_here[:, None]
            tokens = self.tokens[children].long().masked_fill(~exists, -1)  # (N, F)
            is_next = exists & (tokens == wanted[:, None])
            wrong |= is_here & ~is_next.any(dim=1)
            nodes = children.gather(1, is_next.to(torch.int8).argmax(dim=1, keepdim=True))[:, 0]
            found.append(tokens)
        if wrong.any():
            row = int(wrong.to(torch.int8).argmax())
            raise ValueError(f"sequence {row}, {sequences[row].tolist()}, is no lexical ID of the item trie")
        widest = max(tokens.shape[1] for tokens in found)
        found += [found[0][:, :0]] * (sequences.shape[1] - len(found))
        padded = [nn.functional.pad(tokens, (0, widest - tokens.shape[1]), value=-1) for tokens in found]
        return torch.stack(padded, dim=1)

    @property
    def starts(self) -> torch.Tensor:
        """How many items come before those below each node (N,) int64, in the order of the lexical IDs.

        Worked out when it is first asked for, and kept.
        """
        if self._starts is None or self._starts.device != self.offsets.device:
            offsets = self.offsets.long()
            before = nn.functional.pad(self.sizes.cumsum(0), (1, -1))  # items below all nodes with a lower number
            starts = torch.zeros_like(before)
            first, after = 0, 1  # nodes of a level
            while first < after:
                children = slice(after, int(offsets[after]))
                parents = torch.arange(first, after, device=offsets.device)
                parents = parents.repeat_interleave(offsets[first + 1 : after + 1] - offsets[first:after])
                starts[children] = starts[parents] + before[children] - before[offsets[parents]]
                first, after = after, children.stop
            self._starts = starts
        return self._starts

    def subset(self, rows: torch.Tensor) -> ItemSubset:
        """Some items, by catalogue rows (n,), as a search asks for them; kept for the next time. -1 is none.

        Raises:
            ValueError: a row is not one of the catalogue's.

        Example:
            >>> trie = ItemTrie.from_sequences([[5, 8, 1], [5, 9, 1], [7, 1]])
            >>> subset = trie.subset(torch.tensor([1, 2]))
            >>> subset[torch.arange(8)]  # of the root, 5, 7, 5 8, 5 9 and 7 1, and where two of these end
            tensor([2, 1, 1, 0, 1, 1, 0, 1])
        """
        rows = rows.long()
        least, most = (int(rows.min()), int(rows.max())) if rows.numel() else (0, 0)
        if least < -1 or most >= self.num_items:
            wrong = rows[(rows < -1) | (rows >= self.num_items)][0]
            raise ValueError(f"item row {int(wrong)} is not one of the trie's {self.num_items} rows")
        rows = rows[rows >= 0] if least < 0 else rows  # a copy of many takes longer than all else here
        is_in = torch.zeros(self.num_items, dtype=torch.bool, device=rows.device)
        is_in[rows] = True
        key = hashlib.blake2b(np.packbits(is_in.numpy(force=True))).digest()
        before = self._subsets.pop(key, None)  # put at the end again, among those that are kept longest
        if before is None:
            leaves = self.leaves[rows.to(self.leaves.device)].long()
            counts = torch.zeros(int(self.sizes[0]) + 1, dtype=torch.int32, device=leaves.device)
            counts[self.starts[leaves[leaves >= 0]] + 1] = 1
            before = counts.cumsum(0, dtype=torch.int32)
        self._subsets[key] = before = before.to(self.leaves.device)
        for oldest in list(self._subsets)[: -max(_SUBSET_BYTES // before.nbytes, 1)]:
            self._subsets.pop(oldest, None)  # another thread may have been faster
        return ItemSubset(self, before)

    def exhausted_nodes(self, excluded_items: torch.Tensor, allowed: ItemSubset | None = None) -> torch.Tensor:
        """Nodes below which every item is excluded, of catalogue rows (B, E), padded with -1, that users must not get.

        They are sorted keys (X,), each `user * num_nodes + node`. `allowed` is as of [`subset`]: other items count as
        if they were not there.
        """
        sizes = self.sizes if allowed is None else allowed
        users = torch.arange(len(excluded_items), device=excluded_items.device)[:, None]  # (B, 1)
        known = (excluded_items >= 0) & (excluded_items < self.num_items)  # the trie of a subset may end earlier
        leaves = self.leaves[excluded_items.masked_fill(~known, 0)].long()  # (B, E)
        known &= (leaves >= 0) & (sizes[leaves] > 0)
        keys = torch.unique((users * self.num_nodes + leaves)[known])
        path = self.paths(keys % self.num_nodes)  # (L, D)
        keys = (keys[:, None] // self.num_nodes * self.num_nodes + path)[path > 0]
        keys, counts = torch.unique(keys, return_counts=True)
        return keys[counts == sizes[keys % self.num_nodes]]


class ItemSubset:
    """Some of a trie's items: `subset[nodes]` is how many of them are below nodes (...).

    `before` (I + 1,) int32: how many of them are among the first 0, 1, ... of the trie's items, in the order of the
    lexical IDs.
    """

    def __init__(self, trie: ItemTrie, before: torch.Tensor):
        self.trie, self.before = trie, before

    def __getitem__(self, nodes: torch.Tensor) -> torch.Tensor:
        first = self.trie.starts[nodes]
        return (self.before[first + self.trie.sizes[nodes]] - self.before[first]).long()


def _as_array(sequences: Sequence[Sequence[int]] | np.ndarray | torch.Tensor) -> np.ndarray:
    """Sequences (I, D), padded with -1; an array is taken as it is."""
    if isinstance(sequences, np.ndarray | torch.Tensor):
        padded = np.asarray(sequences)
        if padded.ndim != 2 or padded.dtype.kind != "i":
            what = f"{padded.dtype} of shape {padded.shape}"
            raise ValueError(f"`sequences` must be signed integers (items, tokens), got {what}")
        return padded
    lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    flat = np.fromiter(chain.from_iterable(sequences), dtype=np.int32, count=int(lengths.sum()))
    if (flat < 0).any():
        row = int(np.searchsorted(lengths.cumsum(), (flat < 0).argmax(), side="right"))
        raise ValueError(f"sequence {row} holds a token below 0")
    padded = np.full((len(lengths), lengths.max(initial=0)), -1, dtype=np.int32)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat
    return padded


def _checked(padded: np.ndarray) -> tuple[np.ndarray, int]:
    """Lengths (I,) of padded sequences and their end token; checks that each ends with it and holds it only there."""
    num_items, depth = padded.shape
    if num_items == 0:
        raise ValueError("an item trie needs at least one lexical ID")
    lengths, wrong = np.zeros(num_items, dtype=np.int16), np.zeros(num_items, dtype=bool)
    for level, column in enumerate(padded.T):
        wrong |= (column >= 0) & (lengths < level)
        lengths += column >= 0
    if wrong.any():
        raise ValueError(f"sequence {int(wrong.argmax())} holds a token below 0, or is not padded at its end")
    if lengths.min(initial=depth) == 0:
        raise ValueError(f"sequence {int(lengths.argmin())} is empty: a lexical ID ends with the end token")
    end = int(padded[0, lengths[0] - 1])
    for level, column in enumerate(padded.T):
        wrong |= (column == end) != (lengths == level + 1)
    if wrong.any():
        raise ValueError(f"sequence {int(wrong.argmax())} must end with the end token {end}, and hold it nowhere else")
    return lengths, end


def _first_difference(padded: np.ndarray, order: np.ndarray) -> np.ndarray:
    """First level (I,) on which each sequence, taken in this order, differs from the one before; 0 for the first."""
    depth = padded.shape[1]
    first_difference = np.full(len(order), depth, dtype=np.int16)
    for level in range(depth - 1, -1, -1):
        column = padded[order, level]
        first_difference[1:][column[1:] != column[:-1]] = level
    first_difference[0] = 0
    twins = np.flatnonzero(first_difference == depth)
    if len(twins):
        first, second = sorted(order[twins[0] - 1 : twins[0] + 1].tolist())
        raise ValueError(f"sequences {first} and {second} are equal: every item needs a lexical ID of its own")
    return first_difference
