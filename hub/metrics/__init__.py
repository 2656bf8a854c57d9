"""Metrics of ranked item lists as `evaluate` modules: a folder each, which stands alone, as on the Hub."""

from pathlib import Path


def metric_path(name: str) -> str:
    """Folder of a metric, for `evaluate.load`.

    Args:
        name: `recall_at_k`, `ndcg_at_k`, `mrr_at_k` or `catalogue_coverage`.

    Raises:
        ValueError: there is no such metric.

    Example:
        >>> import evaluate
        >>> recall = evaluate.load(metric_path("recall_at_k"))
        >>> recall.compute(predictions=[["a", "b", "c"]], references=["b"], k=[1, 2])
        {'recall@1': 0.0, 'recall@2': 1.0}
    """
    folder = Path(__file__).parent
    names = sorted(path.parent.name for path in folder.glob("*/app.py"))
    if name not in names:
        raise ValueError(f"there is no metric {name!r}; give one of {', '.join(names)}")
    return str(folder / name)
