"""The metrics of ranked item lists as a module of `evaluate`: a folder that stands alone, as on the Hub."""

from pathlib import Path

RANKING_METRICS = str(Path(__file__).with_name("ranking_metrics"))  # for `evaluate.load`
