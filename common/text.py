"""Words for people: times, and text that neither Markdown nor HTML takes for its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def plain(text: Any) -> str:
    """A text in one line, in which Markdown and HTML find nothing to do."""
    escaped = re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", _in_one_line(text))
    return re.sub(r"^(\d*)([-+=.)])(?=[-=\s]|$)", r"\1\\\2", escaped)  # a list in the list, or a line under a heading


def _in_one_line(text: Any) -> str:
    """Without what UTF-8 cannot hold, as in the name of a folder that is not UTF-8."""
    return " ".join(str(text).encode("utf-8", "replace").decode().split())


def markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table from those of its cells, the head first."""
    head, *others = lines
    return [f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *others)]


def duration(seconds: float) -> str:
    """A time in words: `45.2 seconds`, `6.3 minutes`, `40.0 hours`."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} seconds"
