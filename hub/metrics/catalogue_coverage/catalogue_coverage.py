"""Catalogue coverage of ranked item lists, for `evaluate`."""

import datasets
import evaluate

from .rankings import RankedLists, cutoffs

_DESCRIPTION = """\
Catalogue coverage@k: the share of the catalogue's items that are recommended to at least one user among the first k.
It tells a recommender that shows everybody the same few items from one that uses its catalogue; it grows with the
number of users, so compare it on the same users only.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for every user the ranked list of item ids, best first; strings or integers, none twice. A list may
        be shorter than k, or empty.
    num_items: items of the catalogue.
    k: cut-off, or a list of cut-offs; 10 by default.
Returns:
    `{"catalogue_coverage@10": share}`, an entry for every k. It belongs to all users together, so it has no interval
    over users.
Examples:
    >>> metric = evaluate.load("hub/metrics/catalogue_coverage")
    >>> metric.compute(predictions=[["a", "b"], ["a", "c"]], num_items=10, k=[1, 2])
    {'catalogue_coverage@1': 0.1, 'catalogue_coverage@2': 0.3}
"""

_CITATION = """\
@inproceedings{ge2010beyond,
    author = {Ge, Mouzhi and Delgado-Battenfeld, Carla and Jannach, Dietmar},
    title = {Beyond accuracy: evaluating recommender systems by coverage and serendipity},
    booktitle = {Proceedings of the Fourth ACM Conference on Recommender Systems},
    pages = {257--260},
    year = {2010}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class CatalogueCoverage(RankedLists, evaluate.Metric):
    """Share of the catalogue that is recommended to anybody."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": datasets.Sequence(datasets.Value(kind))})
                for kind in ("string", "int64")
            ],
            reference_urls=["https://doi.org/10.1145/1864708.1864761"],
        )

    def _compute(self, predictions, num_items, k=10):
        most = len({item for items in predictions for item in items})
        if num_items < max(most, 1):
            raise ValueError(f"num_items is {num_items}, but {most} different items were recommended")
        shown = {k: {item for items in predictions for item in items[:k]} for k in cutoffs(k)}
        return {f"catalogue_coverage@{k}": len(items) / num_items for k, items in shown.items()}
