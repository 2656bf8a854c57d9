"""From a data folder to a table of results: every row and seed, resumable, each figure from a file."""

from .plan import SIZES, Plan
from .rows import ROWS, Row
from .stages import reproduce, rerun
from .tables import results_table, write_table

__all__ = ["ROWS", "SIZES", "Plan", "Row", "reproduce", "rerun", "results_table", "write_table"]
