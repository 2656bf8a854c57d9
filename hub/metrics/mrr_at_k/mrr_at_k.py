"""MRR@k of ranked item lists, for `evaluate`."""

import datasets
import evaluate

from .rankings import Hits, RankedLists, at_cutoffs, reciprocal_rank

_DESCRIPTION = """\
MRR@k, mean reciprocal rank: one over the rank of the first relevant item of the list recommended, 0 where none is among
the first k, averaged over users.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for every user the ranked list of item ids, best first; strings or integers, none twice. A list may
        be shorter than k, or empty.
    references: for every user the relevant item id, or a list of several.
    k: cut-off, or a list of cut-offs; 10 by default.
    confidence_interval: give each mean with its 95 % interval over users (normal approximation, clipped to [0, 1]).
Returns:
    `{"mrr@10": mean}`, an entry for every k; with `confidence_interval` each is
    `{"mean": mean, "low": low, "high": high}`.
Examples:
    >>> metric = evaluate.load("hub/metrics/mrr_at_k")
    >>> predictions = [["a", "b", "c"], ["d", "e", "f"]]
    >>> metric.compute(predictions=predictions, references=["b", "x"], k=[1, 3])
    {'mrr@1': 0.0, 'mrr@3': 0.25}
    >>> metric.compute(predictions=predictions, references=[["c", "b"], ["d", "x"]], k=3)
    {'mrr@3': 0.75}
"""

_CITATION = """\
@inproceedings{voorhees1999trec,
    author = {Voorhees, Ellen M.},
    title = {The {TREC-8} Question Answering Track Report},
    booktitle = {Proceedings of the Eighth Text REtrieval Conference},
    year = {1999}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class MrrAtK(RankedLists, evaluate.Metric):
    """One over the rank of the first relevant item."""

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
            reference_urls=["https://trec.nist.gov/pubs/trec8/papers/qa_report.pdf"],
        )

    def _compute(self, predictions, references, k=10, confidence_interval=False):
        return at_cutoffs("mrr", reciprocal_rank, Hits.of_lists(predictions, references), k, confidence_interval)
