"""Recall@k of ranked item lists, for `evaluate`."""

import datasets
import evaluate

from .rankings import Hits, RankedLists, at_cutoffs, recall

_DESCRIPTION = """\
Recall@k: the share of a user's relevant items that are among the first k of the list recommended, averaged over users.
With one relevant item per user (leave-one-out) it is the share of users whose item is there, also called hit rate.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for every user the ranked list of item ids, best first; strings or integers, none twice. A list may
        be shorter than k, or empty.
    references: for every user the relevant item id, or a list of several.
    k: cut-off, or a list of cut-offs; 10 by default.
    confidence_interval: give each mean with its 95 % interval over users (normal approximation, clipped to [0, 1]).
Returns:
    `{"recall@10": mean}`, an entry for every k; with `confidence_interval` each is
    `{"mean": mean, "low": low, "high": high}`.
Examples:
    >>> metric = evaluate.load("hub/metrics/recall_at_k")
    >>> predictions = [["a", "b", "c"], ["d", "e", "f"]]
    >>> metric.compute(predictions=predictions, references=["b", "x"], k=[1, 3])
    {'recall@1': 0.0, 'recall@3': 0.5}
    >>> metric.compute(predictions=predictions, references=[["a", "x"], ["e", "f"]], k=3)
    {'recall@3': 0.75}
"""

_CITATION = """\
@article{deshpande2004item,
    author = {Deshpande, Mukund and Karypis, George},
    title = {Item-based top-{N} recommendation algorithms},
    journal = {ACM Transactions on Information Systems},
    volume = {22},
    number = {1},
    pages = {143--177},
    year = {2004}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RecallAtK(RankedLists, evaluate.Metric):
    """Share of the relevant items among the first k."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features(
                    {
                        "predictions": datasets.Sequence(datasets.Value(kind)),
                        "references": datasets.Sequence(datasets.Value(kind)),
                    }
                )
                for kind in ("string", "int64")
            ],
            reference_urls=["https://doi.org/10.1145/963770.963776"],
        )

    def _compute(self, predictions, references, k=10, confidence_interval=False):
        return at_cutoffs("recall", recall, Hits.of_lists(predictions, references), k, confidence_interval)
