"""From a data folder to a table of results: every row and seed, resumable, each figure from a file."""

from ..common.lazy import lazy

_HOMES = {
    "ROWS": ".plan",
    "SIZES": ".plan",
    "Plan": ".plan",
    "reproduce": ".stages",
    "rerun": ".stages",
    "results_table": ".tables",
    "write_table": ".tables",
}

__all__ = sorted(_HOMES)

__getattr__ = lazy(__name__, _HOMES)
