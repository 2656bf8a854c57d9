"""From a data folder to a table of results: every row and seed, resumable, each figure from a file."""

from .plan import ROWS, SIZES, Plan
from .stages import reproduce, rerun
from .tables import results_table, write_table

__all__ = ["ROWS", "SIZES", "Plan", "reproduce", "rerun", "results_table", "write_table"]
