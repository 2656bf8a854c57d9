"""What the lexical IDs of a catalogue look like as a tree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .codes import CODE_TOKEN
from .lexical_ids import DIGITS, SPACE


@dataclass(frozen=True)
class Level:
    """One level of the ID tree: its nodes, and how many children those nodes above it have that have any."""

    nodes: int
    max_fan_out: int
    mean_fan_out: float


@dataclass(frozen=True)
class TreeStatistics:
    """Counts over a catalogue's lexical IDs; `str()` is a table to print.

    Attributes:
        items: N.
        duplicates: items whose ID an item before them has; 0 where a catalogue is of use.
        suffixed: items told apart from others of the same path by a numeric suffix, or of the same codes by the last.
        levels: from the first token of the IDs to the last.
    """

    items: int
    duplicates: int
    suffixed: int
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, lexical_ids: Sequence[Sequence[str]]) -> TreeStatistics:
        """Count. An ID whose last token is a single digit has a suffix: paths hold no tokens of one character."""
        levels = []
        for depth in range(1, max(map(len, lexical_ids), default=0) + 1):
            nodes = {tuple(tokens[:depth]) for tokens in lexical_ids if len(tokens) >= depth}
            children = Counter(node[:-1] for node in nodes)
            levels.append(Level(len(nodes), max(children.values()), len(nodes) / len(children)))
        alike = Counter(tuple(tokens[:-1]) for tokens in lexical_ids if CODE_TOKEN.fullmatch(tokens[-1]))
        suffixed = sum(
            tokens[-1].removeprefix(SPACE) in set(DIGITS) or alike[tuple(tokens[:-1])] > 1 for tokens in lexical_ids
        )
        return cls(len(lexical_ids), len(lexical_ids) - len(set(map(tuple, lexical_ids))), suffixed, tuple(levels))

    def rows(self) -> list[tuple[int, int, int, float]]:
        """(level, counted from 1; nodes; largest fan-out; mean fan-out), level by level."""
        return [
            (number, level.nodes, level.max_fan_out, level.mean_fan_out) for number, level in enumerate(self.levels, 1)
        ]

    def __str__(self) -> str:
        """A table of the levels, and a line on the items."""
        lines = [f"{'level':>5} {'nodes':>9} {'max fan-out':>12} {'mean fan-out':>13}"]
        lines += [f"{level:5d} {nodes:9,d} {widest:12,d} {mean:13.2f}" for level, nodes, widest, mean in self.rows()]
        lines.append(f"{self.items:,} items, {self.duplicates:,} duplicate IDs, {self.suffixed:,} items with a suffix")
        return "\n".join(lines)
