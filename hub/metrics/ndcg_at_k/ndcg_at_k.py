"""NDCG@k of ranked item lists, for `evaluate`."""

import datasets
import evaluate

from .rankings import Hits, RankedLists, at_cutoffs, ndcg

_DESCRIPTION = """\
NDCG@k, normalised discounted cumulative gain with binary relevance: a relevant item at rank r of the list recommended
gains 1 / log2(r + 1) where r is at most k; a user's gains are divided by the most that the user's number of relevant
items can gain, and averaged over users. With one relevant item per user (leave-one-out) the most is 1, and NDCG@k is
1 / log2(r + 1), or 0 where the item is not among the first k.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for every user the ranked list of item ids, best first; strings or integers, none twice. A list may
        be shorter than k, or empty.
    references: for every user the relevant item id, or a list of several, all equally relevant.
    k: cut-off, or a list of cut-offs; 10 by default.
    confidence_interval: give each mean with its 95 % interval over users (normal approximation, clipped to [0, 1]).
Returns:
    `{"ndcg@10": mean}`, an entry for every k; with `confidence_interval` each is
    `{"mean": mean, "low": low, "high": high}`.
Examples:
    >>> metric = evaluate.load("hub/metrics/ndcg_at_k")
    >>> predictions = [["a", "b", "c"], ["d", "e", "f"]]
    >>> metric.compute(predictions=predictions, references=["c", "x"], k=[1, 3])
    {'ndcg@1': 0.0, 'ndcg@3': 0.25}
    >>> metric.compute(predictions=predictions, references=[["a", "b"], ["d", "x"]], k=1)
    {'ndcg@1': 1.0}
"""

_CITATION = """\
@article{jarvelin2002cumulated,
    author = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
    title = {Cumulated gain-based evaluation of {IR} techniques},
    journal = {ACM Transactions on Information Systems},
    volume = {20},
    number = {4},
    pages = {422--446},
    year = {2002}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class NdcgAtK(RankedLists, evaluate.Metric):
    """Discounted gain of the relevant items among the first k, over the most it can be."""

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
            reference_urls=["https://doi.org/10.1145/582415.582418"],
        )

    def _compute(self, predictions, references, k=10, confidence_interval=False):
        return at_cutoffs("ndcg", ndcg, Hits.of_lists(predictions, references), k, confidence_interval)
