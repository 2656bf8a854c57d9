"""What a ranked list is worth: recall and NDCG of every user's one held-out item, and their mean with an interval.

And whom it serves: the same by how often the item was there to learn from, and how much of the catalogue is ever shown.

`ranks` (U,) are the items' places in the lists, from 1; 0 where an item was not found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.text import markdown_table, plain

if TYPE_CHECKING:
    from transformers import EvalPrediction

PROTOCOLS = {"all_items": "all items may be recommended", "unseen_items": "items of the history are masked"}
CUTOFFS = (1, 5, 10, 20, 50)
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")  # of tables and cards
TIMES_SEEN = {"0": 0, "1-4": 1, "5-19": 5, "20+": 20}  # groups of items, from how many training interactions on
SHOWN = {"coverage@10": 3, "popularity@10": 1}  # digits
SERVED = "By how often the target was seen in training; coverage is the share of the items in anybody's first ten, "
SERVED += "popularity how often these were seen"
_Z_95 = 1.959964  # of the normal distribution: 95 % lie within this many standard errors


def recall(ranks: np.ndarray, k: int) -> np.ndarray:
    """(U,) 1 for the users whose item is among the first `k`, 0 for the others."""
    return ((ranks >= 1) & (ranks <= k)).astype(float)


def ndcg(ranks: np.ndarray, k: int) -> np.ndarray:
    """(U,) `1 / log2(rank + 1)` where the item is among the first `k`, else 0."""
    return recall(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)


def gains(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, np.ndarray]:
    """Every user's `{"recall@k": (U,), "ndcg@k": (U,)}` for the values of k."""
    return {f"{name}@{k}": gain(ranks, k) for k in cutoffs for name, gain in (("recall", recall), ("ndcg", ndcg))}


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean of the users' values (U,) with its 95 % interval, which tells how far it would move with other users.

    It is the normal approximation, the mean and 1.96 standard errors to either side; for a single user 1 to either
    side. That of the differences of two rankings is much narrower than those of the rankings, as users are paired:
    where it does not hold 0, they differ at the level of 5 %, of one comparison.

    Example:
        >>> interval(np.array([0.5, 1.0]) - np.array([0.0, 0.5]))
        {'mean': 0.5, 'low': 0.5, 'high': 0.5}
    """
    mean = float(values.mean())
    margin = _Z_95 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 1.0
    return {"mean": mean, "low": mean - margin, "high": mean + margin}


def estimate(values: np.ndarray) -> dict[str, float]:
    """The [`interval`] of values that lie in [0, 1], clipped to that."""
    found = interval(values)
    return {**found, "low": max(found["low"], 0.0), "high": min(found["high"], 1.0)}


def estimate_text(of: Mapping[str, float | None], best: float | None = None) -> str:
    """An [`estimate`] in a Markdown table: bold where it is the best one, with its spread over seeds if it has one."""
    mean, spread = f"{of['mean']:.4f}", of.get("spread")
    mean = f"**{mean}**" if of["mean"] == best else mean
    return f"{mean}{'' if spread is None else f' ± {spread:.4f}'} ({of['low']:.4f}-{of['high']:.4f})"


def ranking_metrics(ranks: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, dict[str, float]]:
    """Recall and NDCG with a 95 % interval over users: `{"recall@k": {"mean", "low", "high"}, "ndcg@k": ...}`.

    Raises:
        ValueError: no users.

    Example:
        >>> metrics = ranking_metrics(np.array([1, 3, 0, 0]), cutoffs=(5,))  # found first, third, and not for two users
        >>> metrics["recall@5"]["mean"], metrics["ndcg@5"]["mean"]
        (0.5, 0.375)
    """
    ranks = np.asarray(ranks)
    if not len(ranks):
        raise ValueError("there are no users to evaluate; give at least one")
    return {name: estimate(values) for name, values in gains(ranks, cutoffs).items()}


def ranking_compute_metrics(
    tokenizer, k: Sequence[int] = (5, 10), num_users: int | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """A `compute_metrics` for a `Seq2SeqTrainer` with `predict_with_generate`: recall and NDCG at every k.

    `generate` must give at least the largest k of items: `num_beams=50, num_return_sequences=10`, as arguments of the
    trainer's `evaluate` and `predict`, or for evaluations during training in `model.generation_config`. A user's
    sequences come to the metrics as so many rows one after the other, and say by themselves how many they are.

    Args:
        tokenizer: the model's [`GramTokenizer`], which reads items out of sequences and labels.
        k: cutoffs.
        num_users: rows of the evaluation set. Several processes need it: they do the first rows again until all have
            done as many, and the trainer counts these twice.

    Returns:
        A function that gives `{"recall@5": ..., "ndcg@5": ..., ...}`, means over users.

    Raises:
        ValueError: when it is called: the predictions are logits; there are fewer of a user than the largest k; several
            processes evaluate, and `num_users` is not given.

    Example:
        >>> from transformers import EvalPrediction
        >>> inputs = tokenizer(histories=[["B0003"]], return_tensors="pt")
        >>> sequences = model.generate(**inputs, num_beams=5, num_return_sequences=3).numpy()
        >>> compute_metrics = ranking_compute_metrics(tokenizer, k=(1, 3))
        >>> compute_metrics(EvalPrediction(sequences, label_ids=sequences[1:2]))  # the target is the second of three
        {'recall@1': 0.0, 'ndcg@1': 0.0, 'recall@3': 1.0, 'ndcg@3': 0.6309297535714575}
    """
    from ..common.processes import this_process  # what it needs, a Trainer needs too; a model card does without

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        sequences, labels = prediction.predictions, prediction.label_ids
        if not isinstance(sequences, np.ndarray) or sequences.ndim != 2:
            raise ValueError("rankings need a Seq2SeqTrainer with `predict_with_generate=True`; these are logits")
        if num_users is None and this_process().num_processes > 1:
            raise ValueError("several processes evaluate; give `num_users`, the rows of the evaluation set")
        most, rest = divmod(len(sequences), len(labels))
        if rest or most < max(k):
            raise ValueError(
                f"{len(sequences)} sequences for {len(labels)} users, and rankings need {max(k)} or more of each; give "
                f"`num_beams=50, num_return_sequences={max(k)}` to `evaluate`, or set them in model.generation_config"
            )
        sequences, labels = sequences[: most * len(labels[:num_users])], labels[:num_users]
        pairs = zip(tokenizer.decode_items(sequences, most), tokenizer.decode_items(labels, 1), strict=True)
        ranks = np.array([items.index(target) + 1 if target in items else 0 for items, (target,) in pairs])
        return {name: float(values.mean()) for name, values in gains(ranks, k).items()}

    return compute_metrics


def row_metrics(ranking, targets: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """All that is told of a `gram.evaluation.candidates.Ranking`, which is of users whose `targets` (U,) are such rows.

    That is [`ranking_metrics`]; `by_times_seen`, at 5 and 10, of the users whose targets were in training about as
    often; `coverage@10`, the share of items that anybody is shown; `popularity@10`, how often these were in training,
    on average. `counts` (N,) are each item's training interactions.
    """
    by_times, group = {}, np.searchsorted([*TIMES_SEEN.values()], counts[targets], side="right") - 1
    for number, name in enumerate(TIMES_SEEN):
        some = group == number
        metrics = ranking_metrics(ranking.ranks[some], (5, 10)) if some.any() else {}
        by_times[name] = {"users": int(some.sum()), **metrics}
    return {
        **ranking_metrics(ranking.ranks),
        "by_times_seen": by_times,
        "coverage@10": float((ranking.shown > 0).mean()),
        "popularity@10": float(ranking.shown @ counts / max(ranking.shown.sum(), 1)),
    }


def served_table(models: dict[str, Any], protocol: str) -> list[str]:
    """Lines of Markdown on whom each row of results serves, and with what."""
    return ["", f"{SERVED}:", "", *markdown_table(served_cells(models, protocol))]


def served_cells(models: dict[str, Any], protocol: str) -> list[list[str]]:
    """Cells of a table of NDCG@10 by how often the target was seen, coverage and popularity."""
    metrics_of = {name: by_protocol[protocol] for name, by_protocol in models.items()}
    groups = next(iter(metrics_of.values()))["by_times_seen"]
    lines = [["N@10, seen", *groups, "coverage", "popularity"]]
    lines += [["users", *(f"{of['users']:,.0f}" for of in groups.values()), "", ""]]
    for name, metrics in metrics_of.items():
        values = [metrics["by_times_seen"][group].get("ndcg@10") for group in groups]  # a group may have no users
        cells = [estimate_text(of) if of else "" for of in values]
        lines.append([plain(name), *cells, *(f"{metrics[key]:.{digits}f}" for key, digits in SHOWN.items())])
    return lines
