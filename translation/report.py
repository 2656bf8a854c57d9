"""What the items of a catalogue are called and what is similar to them: figures, and a web page to look at it."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..common.files import check_outputs, new_file
from .tokens import CODE_TOKEN, DIGITS, SPACE

TEMPLATE = Path(__file__).with_name("report.html")
SAMPLE_ROWS = 12
MARK = b'<meta name="generator" content="gram translate">'


class Level(NamedTuple):
    """A level of the ID tree, from 1: its nodes, and how many children those nodes above it have that have any."""

    level: int
    nodes: int
    max_fan_out: int
    mean_fan_out: float


@dataclass(frozen=True)
class TreeStatistics:
    """Counts over a catalogue's lexical IDs; `str()` is a table to print."""

    items: int  # N
    duplicates: int  # items whose ID an item before them has; 0 where a catalogue is of use
    suffixed: int  # items told apart from others of the same path by a numeric suffix, or of the same codes by the last
    levels: tuple[Level, ...]  # from the first token of the IDs to the last

    @classmethod
    def of(cls, lexical_ids: Sequence[Sequence[str]]) -> TreeStatistics:
        """Count. An ID whose last token is a single digit has a suffix: paths hold no tokens of one character."""
        levels = []
        for depth in range(1, max(map(len, lexical_ids), default=0) + 1):
            nodes = {tuple(tokens[:depth]) for tokens in lexical_ids if len(tokens) >= depth}
            children = Counter(node[:-1] for node in nodes)
            levels.append(Level(depth, len(nodes), max(children.values()), len(nodes) / len(children)))
        alike = Counter(tuple(tokens[:-1]) for tokens in lexical_ids if CODE_TOKEN.fullmatch(tokens[-1]))
        suffixed = sum(
            tokens[-1].removeprefix(SPACE) in set(DIGITS) or alike[tuple(tokens[:-1])] > 1 for tokens in lexical_ids
        )
        return cls(len(lexical_ids), len(lexical_ids) - len(set(map(tuple, lexical_ids))), suffixed, tuple(levels))

    def __str__(self) -> str:
        """A table of the levels, and a line on the items."""
        lines = [f"{'level':>5} {'nodes':>9} {'max fan-out':>12} {'mean fan-out':>13}"]
        lines += [f"{level:5d} {nodes:9,d} {widest:12,d} {mean:13.2f}" for level, nodes, widest, mean in self.levels]
        lines.append(f"{self.items:,} items, {self.duplicates:,} duplicate IDs, {self.suffixed:,} items with a suffix")
        return "\n".join(lines)


def report_file(path: str | Path) -> Path:
    """The file of a report, whose name must end in `.html`, and which replaces no page of somebody else."""
    path = Path(path)
    if path.suffix != ".html" or path.is_dir():
        raise ValueError(f"{path}: the report is a web page; give a file name that ends in .html")
    check_outputs({path: lambda path: MARK in path.read_bytes()[:1000]})
    return path


def write_report(
    catalogue: pa.Table,
    statistics: TreeStatistics,
    path: str | Path,
    title: str = "Lexical IDs of a catalogue",
    max_items: int = 50_000,
) -> None:
    """Write one HTML file that needs nothing else: figures, fan-out, a sample, and the ID tree to unfold and search.

    The same catalogue gives the same bytes. A file of this name is replaced once the new one is whole.

    Args:
        catalogue: `CATALOGUE_SCHEMA` of `tokenization_gram`.
        statistics: of its lexical IDs.
        path: the file; its folder is made where there is none.
        title: heading of the page.
        max_items: of a larger catalogue the page holds this many items, spread evenly over the tree. The sizes of the
            nodes are still those of the whole tree, and the page says what it leaves out.

    Raises:
        ValueError: the name does not end in `.html`.
    """
    path = report_file(path)
    data = json.dumps(_page_data(catalogue, statistics, max_items), ensure_ascii=False, separators=(",", ":"))
    # Without "<" nothing can end the script element that the data stand in, or open a comment.
    fields = {"title": html.escape(title), "data": data.replace("<", "\\u003c")}
    # In one pass, so that a title that reads like a placeholder stays a title.
    page = re.sub(r"{{(title|data)}}", lambda match: fields[match[1]], TEMPLATE.read_text(encoding="utf-8"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        part.write_bytes(page.encode("utf-8", "replace"))


def _page_data(catalogue: pa.Table, statistics: TreeStatistics, max_items: int) -> dict[str, Any]:
    """What the page's script reads. Items stand in the order of the tree, so that a node is a run of them."""
    columns = {name: catalogue[name].to_pylist() for name in ("item_id", "title", "lexical_id", "similar_items")}
    lexical_ids = columns["lexical_id"]
    order = sorted(range(len(lexical_ids)), key=lexical_ids.__getitem__)
    shown = [order[place] for place in _evenly(len(order), max_items)]
    row_of = {columns["item_id"][item]: row for row, item in enumerate(shown)}
    in_catalogue_order = sorted(range(len(shown)), key=shown.__getitem__)
    tokens, nodes = _tree([lexical_ids[item] for item in shown], lexical_ids)
    return {
        "items": statistics.items,
        "duplicates": statistics.duplicates,
        "suffixed": statistics.suffixed,
        "mean_tokens": sum(map(len, lexical_ids)) / max(len(lexical_ids), 1),
        "levels": statistics.levels,
        "ids": [columns["item_id"][item] for item in shown],
        "titles": [columns["title"][item] or "" for item in shown],
        "tokens": tokens,
        "nodes": nodes,
        # Rows, or the id of an item that the page leaves out.
        "similar": [[row_of.get(name, name) for name in columns["similar_items"][item] or []] for item in shown],
        "sample": [in_catalogue_order[place] for place in _evenly(len(shown), SAMPLE_ROWS)],
    }


def _evenly(total: int, most: int) -> list[int]:
    """At most `most` of `total` places, spread evenly."""
    count = min(total, most)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def _tree(shown: Sequence[Sequence[str]], lexical_ids: Sequence[Sequence[str]]) -> tuple[list[str], list[list]]:
    """The ID tree, front-coded, in few bytes.

    Gives the distinct tokens; and per lexical ID of `shown`, which are sorted, `[number of leading tokens shared with
    the one before, the other tokens as indices, the items of the whole catalogue below the node of each of these]`,
    without the ones that the sizes end with.
    """
    vocabulary = sorted({token for tokens in shown for token in tokens})
    index = {token: number for number, token in enumerate(vocabulary)}
    wanted = {tuple(tokens[:depth]) for tokens in shown for depth in range(1, len(tokens) + 1)}
    paths = (tuple(tokens[:depth]) for tokens in lexical_ids for depth in range(1, len(tokens) + 1))
    sizes = Counter(path for path in paths if path in wanted)  # of a sampled tree, not the millions of other nodes
    nodes, before = [], []
    for tokens in shown:
        differing = (depth for depth, pair in enumerate(zip(before, tokens, strict=False)) if pair[0] != pair[1])
        shared = next(differing, min(len(before), len(tokens)))
        new_sizes = [sizes[tuple(tokens[: depth + 1])] for depth in range(shared, len(tokens))]
        while new_sizes and new_sizes[-1] == 1:
            new_sizes.pop()
        nodes.append([shared, [index[token] for token in tokens[shared:]], new_sizes])
        before = tokens
    return vocabulary, nodes
