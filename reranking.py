"""Late re-ranking: GRAM's candidates ranked by its own and by collaborative scores together.

Two rankings are made of `score of GRAM + sum of weight * collaborative score`:

- `"GRAM, re-ranked"`: of the items that beam search found, by SASRec, item-kNN and popularity;
- `"GRAM + SASRec"`: of these and the best of SASRec, which GRAM spells out to score them as it does its own, by SASRec.

The weights are chosen on the validation items. [`choose_reranking`] takes no data that hold a test item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from .baselines import Recommender
from .candidates import PROTOCOLS, Candidates, gram_candidates, target_ranks
from .data import TEST, RecommendationData, evaluation_histories
from .files import new_file
from .item_cache_gram import ItemCache
from .processes import gather_users, own_share
from .rankings import Hits, estimate, ndcg, recall
from .translation import Provenance
from .translation.artefacts import METADATA_KEY, hash_of_texts
from .translation.collaborative import hash_of_interactions

GRID = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROUNDS = 2  # of choosing one weight after the other
RERANKED, ENSEMBLE = "GRAM, re-ranked", "GRAM + SASRec"
SCORERS = {RERANKED: ("SASRec", "item-kNN", "popularity"), ENSEMBLE: ("SASRec",)}

_USERS_AT_ONCE = 128  # whose scores of the whole catalogue are in memory


@dataclass(frozen=True, eq=False)
class CollaborativeScores:
    """What a recommender thinks of U users' candidates.

    Attributes:
        scores: (U, C) float32; of no meaning where there is no candidate.
        spread: (U,) float32 standard deviation of the user's scores over the whole catalogue.
    """

    scores: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Weighting:
    """How much collaborative scores count beside GRAM's.

    A score is divided by its standard deviation over the catalogue first. Its mean would move all of a user's
    candidates alike, and stays. So one grid of weights suits every recommender.

    Attributes:
        weights: of each recommender.
        spread: of each recommender, the deviation to divide by; None: every user's own.

    Example:
        >>> candidates = Candidates(np.array([[4, 2, -1]]), np.array([[-1.0, -1.5, -np.inf]]), num_generated=3)
        >>> liked = {"SASRec": CollaborativeScores(np.array([[0.0, 3.0, 0.0]]), np.array([1.0]))}
        >>> Weighting({"SASRec": 0.5}, {"SASRec": 2.0}).rank(candidates, liked)
        array([[ 2,  4, -1]])
    """

    weights: Mapping[str, float]
    spread: Mapping[str, float] | None = None

    def rank(self, candidates: Candidates, scores: Mapping[str, CollaborativeScores]) -> np.ndarray:
        """The candidates (U, C), best first, -1 beyond the last; of equal ones that which GRAM puts first."""
        total = candidates.scores.astype(np.float64)
        for name, weight in self.weights.items():
            spread = scores[name].spread[:, None] if self.spread is None else self.spread[name]
            if weight:
                total += weight * scores[name].scores / np.where(spread > 0, spread, 1)
        order = np.argsort(-total, axis=1, kind="stable")
        return np.take_along_axis(candidates.items, order, axis=1)


def choose_weighting(
    candidates: Candidates, scores: Mapping[str, CollaborativeScores], targets: np.ndarray
) -> tuple[Weighting, list[dict[str, Any]]]:
    """The weights of highest NDCG@10, each recommender's in turn from `GRID`, the smallest of equally good ones.

    Args:
        candidates: of U users.
        scores: of each recommender, in the order in which their weights are chosen.
        targets: (U,) catalogue rows.

    Returns:
        The weighting; and all that were tried, `{"per_user", "weights", "ndcg@10"}`, where `per_user` says that scores
        were divided by every user's own deviation and not by its mean over the users.

    Example:
        >>> candidates = Candidates(np.array([[4, 2], [2, 4]]), np.array([[-1.0, -1.5], [-1.0, -1.5]]), 2)
        >>> truth = {"oracle": CollaborativeScores(np.array([[0.0, 1.0], [0.0, 1.0]]), np.ones(2))}
        >>> choose_weighting(candidates, truth, targets=np.array([2, 4]))[0].weights
        {'oracle': 1.0}
    """
    found = (candidates.items == targets[:, None]).any(axis=1)  # nobody else's NDCG can be anything but 0
    some = Candidates(candidates.items[found], candidates.scores[found], candidates.num_generated)
    own = {name: CollaborativeScores(given.scores[found], given.spread[found]) for name, given in scores.items()}
    means = {name: float(given.spread.mean(dtype=np.float64)) for name, given in scores.items()}

    def judged(weighting: Weighting) -> float:
        ranks = np.zeros(len(targets), dtype=np.int64)
        ranks[found] = target_ranks(weighting.rank(some, own), targets[found])
        return float(ndcg(Hits.of_targets(ranks), 10).mean())

    tried, best, best_ndcg = [], Weighting({}), -1.0
    for spread in (means, None):
        weights = dict.fromkeys(scores, 0.0)
        for name in [*scores] * ROUNDS if len(scores) > 1 else scores:
            of_value = {value: judged(Weighting({**weights, name: value}, spread)) for value in GRID}
            tried += [
                {"per_user": spread is None, "weights": {**weights, name: value}, "ndcg@10": reached}
                for value, reached in of_value.items()
            ]
            weights[name] = max(GRID, key=of_value.get)  # the first of equals
        if of_value[weights[name]] > best_ndcg:
            best, best_ndcg = Weighting(weights, spread), of_value[weights[name]]
    return best, tried


@dataclass(frozen=True, eq=False)
class Reranking:
    """Weightings that were chosen on validation items.

    Attributes:
        weightings: `{row: {protocol: Weighting}}`, rows as in `SCORERS`.
        record: all of it as JSON values: `key`, `artefact`, `inputs` (hashes of model, data and SASRec), `settings`,
            `versions`, and `rows`, `{row: {protocol: {"weights", "spread", "validation", "tried"}}}`. `validation` has
            NDCG@10 and recall@10 of GRAM and of what was chosen, with intervals; the latter flatter, since the weights
            were chosen by them.
    """

    weightings: dict[str, dict[str, Weighting]]
    record: dict[str, Any]

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Reranking:
        """From what [`save`] wrote."""
        rows = record["rows"].items()
        made = {row: {name: Weighting(of["weights"], of["spread"]) for name, of in by.items()} for row, by in rows}
        return cls(made, record)

    @property
    def weights(self) -> dict[str, dict[str, dict[str, float]]]:
        """`{row: {protocol: {recommender: weight}}}`."""
        rows = self.weightings.items()
        return {row: {protocol: dict(of.weights) for protocol, of in by.items()} for row, by in rows}

    def save(self, path: str | Path) -> None:
        """Write the record as JSON."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part:
            part.write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")

    def ranks(self, found: PutForward, targets: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """`{row: {protocol: (U,) ranks}}` of the targets, from 1; 0 where the target is no candidate."""
        return {
            row: {
                protocol: target_ranks(weighting.rank(*found.of(row, protocol)), targets)
                for protocol, weighting in by_protocol.items()
            }
            for row, by_protocol in self.weightings.items()
        }


@dataclass(frozen=True, eq=False)
class PutForward:
    """What is to be ranked under each protocol: GRAM's candidates and SASRec's best, with everybody's scores."""

    candidates: dict[str, Candidates]
    scores: dict[str, dict[str, CollaborativeScores]]

    def of(self, row: str, protocol: str) -> tuple[Candidates, dict[str, CollaborativeScores]]:
        """The candidates of a row of `SCORERS` with the scores that count in it."""
        candidates = self.candidates[protocol]
        scores = {name: self.scores[protocol][name] for name in SCORERS[row]}
        if row == ENSEMBLE:
            return candidates, scores
        width = candidates.num_generated
        scores = {name: CollaborativeScores(of.scores[:, :width], of.spread) for name, of in scores.items()}
        return candidates.generated, scores


def put_forward(
    model,
    tokenizer,
    histories: Sequence[np.ndarray],
    scorers: Mapping[str, Recommender],
    num_beams: int = 50,
    batch_size: int = 16,
    progress: bool = True,
    item_cache: ItemCache | None = None,
) -> PutForward:
    """GRAM's candidates under every protocol, and `num_beams` of SASRec, with all scores.

    Args:
        model, tokenizer, histories, num_beams, batch_size, progress, item_cache: as of [`gram_candidates`].
        scorers: recommenders by name, SASRec among them.
    """
    best = _best_items(scorers["SASRec"], histories, min(num_beams, len(tokenizer.item_ids)))
    candidates = gram_candidates(
        model, tokenizer, histories, PROTOCOLS, num_beams, batch_size, best, progress, item_cache
    )
    scores = {protocol: {} for protocol in PROTOCOLS}
    for name, scorer in scorers.items():
        spread = np.zeros(len(histories), dtype=np.float32)
        of_items = {protocol: np.zeros_like(candidates[protocol].scores) for protocol in PROTOCOLS}
        for some in _chunks(len(histories)):
            catalogue = torch.as_tensor(scorer.score(histories[some])).float().cpu().numpy()  # (B, N)
            spread[some] = catalogue.std(axis=1)
            for protocol, own in of_items.items():
                rows = np.maximum(candidates[protocol].items[some], 0)
                own[some] = np.take_along_axis(catalogue, rows, axis=1)
        for protocol, own in of_items.items():
            scores[protocol][name] = CollaborativeScores(own, spread)
    return PutForward(candidates, scores)


def choose_reranking(
    path: str | Path,
    model,
    tokenizer,
    known: RecommendationData,
    scorers: Mapping[str, Recommender],
    num_beams: int = 50,
    max_users: int | None = None,
    batch_size: int = 16,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    item_cache: ItemCache | None = None,
) -> Reranking:
    """Choose weights by the users' validation items; kept in a file, and taken from it where nothing has changed.

    Every process of `accelerator` calls this, ranks for its share of the users, and returns the same.

    Args:
        path: of the JSON file.
        model: a [`GramForConditionalGeneration`] with its item trie.
        tokenizer: its [`GramTokenizer`].
        known: in rows of the tokenizer's catalogue, without test interactions: see `gram.data.without_test`.
        scorers: the recommenders of `SCORERS` by name, which learnt from the training part alone.
        num_beams: width of GRAM's search; SASRec puts forward as many items.
        max_users: only the first so many users.
        batch_size, accelerator, progress, item_cache: as of `gram.evaluation.evaluate`.

    Raises:
        ValueError: the data hold a test interaction, or no validation item.
    """
    if (known.splits == TEST).any():
        raise ValueError("known: holds test interactions, by which nothing may be chosen; cut them by `without_test`")
    accelerator = accelerator or Accelerator()
    histories, targets = evaluation_histories(known, "validation")
    num_users = min(len(targets), max_users or len(targets))
    provenance = _provenance(model, tokenizer, known, scorers["SASRec"], num_beams, num_users, item_cache)
    record = _read(path)
    accelerator.wait_for_everyone()  # before anybody writes
    if record.get("key") == provenance.key:
        return Reranking.of_record(record)

    own = [histories[user] for user in own_share(num_users, accelerator)]
    found = put_forward(model, tokenizer, own, scorers, num_beams, batch_size, progress, item_cache)
    found = _gather(found, num_users, accelerator)
    rows = {row: {protocol: _choose(found, row, protocol, targets) for protocol in PROTOCOLS} for row in SCORERS}
    reranking = Reranking.of_record({**json.loads(provenance.metadata[METADATA_KEY]), "rows": rows})
    if accelerator.is_main_process:
        reranking.save(path)
    return reranking


def _choose(found: PutForward, row: str, protocol: str, targets: np.ndarray) -> dict[str, Any]:
    candidates, scores = found.of(row, protocol)
    targets = targets[: len(candidates.items)]
    weighting, tried = choose_weighting(candidates, scores, targets)
    validation = {}
    for name, items in {"GRAM": candidates.generated.items, row: weighting.rank(candidates, scores)}.items():
        hits = Hits.of_targets(target_ranks(items, targets))
        validation[name] = {"recall@10": estimate(recall(hits, 10)), "ndcg@10": estimate(ndcg(hits, 10))}
    chosen = {"weights": dict(weighting.weights), "spread": weighting.spread}
    return {**chosen, "validation": validation, "tried": tried}


def _best_items(scorer: Recommender, histories: Sequence[np.ndarray], num_items: int) -> dict[str, np.ndarray]:
    """For each protocol the recommender's best items (U, num_items), -1 where there are no more."""
    best = {protocol: np.full((len(histories), num_items), -1) for protocol in PROTOCOLS}
    for some in _chunks(len(histories)):
        scores = torch.as_tensor(scorer.score(histories[some])).float().clone()
        for protocol in PROTOCOLS:
            if protocol == "unseen_items":
                for row, history in zip(scores, histories[some], strict=True):
                    row[torch.as_tensor(np.asarray(history, dtype=np.int64))] = -torch.inf
            values, items = scores.topk(num_items)
            best[protocol][some] = items.masked_fill(values == -torch.inf, -1).cpu().numpy()
    return best


def _chunks(num_users: int) -> list[slice]:
    return [slice(start, start + _USERS_AT_ONCE) for start in range(0, num_users, _USERS_AT_ONCE)]


def _gather(found: PutForward, num_users: int, accelerator: Accelerator) -> PutForward:
    """What all processes have found for their users."""

    def joined(values: np.ndarray) -> np.ndarray:
        return gather_users(values, num_users, accelerator)

    candidates = {
        protocol: Candidates(joined(own.items), joined(own.scores), own.num_generated)
        for protocol, own in found.candidates.items()
    }
    scores = {
        protocol: {name: CollaborativeScores(joined(of.scores), joined(of.spread)) for name, of in by_name.items()}
        for protocol, by_name in found.scores.items()
    }
    return PutForward(candidates, scores)


def _provenance(model, tokenizer, known, sasrec, num_beams, num_users, item_cache) -> Provenance:
    """Everything that decides the weights. Item-kNN and popularity follow from the data."""
    inputs = {
        "model": _hash_of_weights(model),
        "SASRec": _hash_of_weights(sasrec),
        "item prompts": hash_of_texts(map(repr, tokenizer.item_prompts)),
        "interactions without test": hash_of_interactions(known.interactions),
        "splits": hashlib.sha256(known.splits.tobytes()).hexdigest(),
    }
    settings = {
        "users": num_users,
        "num_beams": num_beams,
        "item_encodings": item_cache.dtype if item_cache else "float32",
        "scorers": {row: list(names) for row, names in SCORERS.items()},
        "grid": list(GRID),
        "rounds": ROUNDS,
        "judged by": "ndcg@10",
    }
    return Provenance("reranking", inputs, settings)


def _hash_of_weights(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: str | Path) -> dict[str, Any]:
    """What the file holds; nothing where it is missing or broken."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
