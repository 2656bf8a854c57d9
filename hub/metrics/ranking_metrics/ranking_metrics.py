"""Recall, NDCG, MRR and catalogue coverage of ranked item lists, for `evaluate`."""

from numbers import Integral

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
How good ranked lists of items are, among the first k, averaged over users. recall@k: share of the relevant items found
(with one per user, the hit rate). ndcg@k: a relevant item at rank r gains 1 / log2(r + 1), divided by the most that the
user's relevant items could gain. mrr@k: one over the rank of the first relevant item, or 0. catalogue_coverage@k: share
of the catalogue that is recommended to anybody.
"""

_INPUTS = """
Args:
    predictions: for every user the ranked list of item ids, best first; strings or integers, none twice. A list may
        be shorter than k, or empty.
    references: for every user the relevant item id, or a list of several, all equally relevant.
    k: cut-off, or a list of cut-offs; 10 by default.
    num_items: items of the catalogue; without it there is no coverage.
    confidence_interval: give each mean over users with its 95 % interval (normal approximation, clipped to [0, 1]).
Returns:
    `{"recall@10": mean, "ndcg@10": mean, "mrr@10": mean}` for every k, and with `num_items` `"catalogue_coverage@10"`;
    with `confidence_interval` each mean is `{"mean": mean, "low": low, "high": high}`.
Examples:
    >>> metrics = evaluate.load("hub/metrics/ranking_metrics")
    >>> metrics.compute(predictions=[["a", "b", "c"], ["d", "e", "c"]], references=["c", "x"], k=3, num_items=10)
    {'recall@3': 0.5, 'ndcg@3': 0.25, 'mrr@3': 0.16666666666666666, 'catalogue_coverage@3': 0.5}
"""

_CITATION = "Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20 (4), 2002"


class RankingMetrics(evaluate.Metric):
    """What ranked lists are worth; see `inputs_description`."""

    def _info(self):
        kinds = [datasets.Sequence(datasets.Value(kind)) for kind in ("string", "int64")]
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[datasets.Features({"predictions": kind, "references": kind}) for kind in kinds],
            reference_urls=["https://doi.org/10.1145/582415.582418"],
        )

    def add(self, *, prediction=None, reference=None):
        """Add one user: the ranked list, and the relevant item or items."""
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions=None, references=None):
        """Add users. What would give wrong figures is refused, and leaves what was added before as it is."""
        numbers = [0 if column is None else len(column) for column in (predictions, references)]
        if numbers[0] != numbers[1] or not numbers[0]:
            raise ValueError(
                "there are {} predictions and {} references; give one of each for every user".format(*numbers)
            )
        predictions, references = _lists("predictions", predictions), _lists("references", references)
        for row, (items, relevant) in enumerate(zip(predictions, references, strict=True)):
            if len(set(items)) < len(items):
                twice = next(item for place, item in enumerate(items) if item in items[:place])
                raise ValueError(f"predictions, row {row}: item {twice!r} is in the list twice")
            if not relevant:
                raise ValueError(f"references, row {row}: no relevant item; leave this user out")
        super().add_batch(predictions=predictions, references=references)

    def _compute(self, predictions, references, k=10, num_items=None, confidence_interval=False):
        cutoffs = k if isinstance(k, list | tuple | np.ndarray) else [k]
        if not len(cutoffs) or not all(isinstance(cutoff, Integral) and cutoff >= 1 for cutoff in cutoffs):
            raise ValueError(f"k is {k!r}; give a whole number of at least 1, or several")
        values = {}
        for cutoff in cutoffs:
            shown = [items[:cutoff] for items in predictions]
            gains = np.array([_gains(*lists, cutoff) for lists in zip(shown, references, strict=True)])  # (U, 3)
            for name, of_users in zip(("recall", "ndcg", "mrr"), gains.T, strict=True):
                values[f"{name}@{cutoff}"] = _interval(of_users) if confidence_interval else float(of_users.mean())
            if num_items is not None:
                different = len(set().union(*shown))
                if num_items < max(different, 1):
                    raise ValueError(f"num_items is {num_items}, but {different} different items were recommended")
                values[f"catalogue_coverage@{cutoff}"] = different / num_items
        return values


def _lists(name, column):
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in column]  # of arrays and tensors
    if name == "references":
        rows = [[row] if isinstance(row, str | Integral) else row for row in rows]
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple | set) or None in row:
            raise ValueError(f"{name}, row {number}: {row!r} is not a list of item ids")
    return [list(row) for row in rows]


def _gains(items, relevant, k):
    relevant = set(relevant)
    ranks = np.array([rank for rank, item in enumerate(items, start=1) if item in relevant])
    most = (1 / np.log2(np.arange(min(k, len(relevant))) + 2)).sum()
    return len(ranks) / len(relevant), (1 / np.log2(ranks + 1)).sum() / most, 1 / ranks[0] if len(ranks) else 0.0


def _interval(values):
    mean = float(values.mean())
    margin = 1.959964 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 1.0
    return {"mean": mean, "low": max(mean - margin, 0.0), "high": min(mean + margin, 1.0)}
