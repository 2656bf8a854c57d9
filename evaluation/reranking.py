"""Late fusion of recommenders: GRAM's candidates ranked by its own and by collaborative scores together.

The rankings are those of [`FUSIONS`]. Their weights are chosen on the validation items: [`choose_reranking`] takes no
data that hold a test item.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..collaborative.baselines import Recommender
from ..common.files import json_in, new_file
from ..common.processes import Accelerator, gather_users, make_accelerator, own_share
from ..common.provenance import Provenance, hash_of_interactions, hash_of_model, hash_of_tokenizer, hash_of_weights
from ..data import TEST, RecommendationData, drawn_users, evaluation_histories
from ..item_cache_gram import ItemCache
from .candidates import Candidates, Ranking, best_items, gram_candidates, scored, target_ranks
from .rankings import PROTOCOLS, ranking_metrics
from .weighting import GRID, ROUNDS, choose_weights, weighted_ranking


@dataclass(frozen=True)
class Fusion:
    """Whose candidates are ranked, GRAM's or SASRec's (whose GRAM spells out, to score them as its own), and by whom.

    The scores of those in `by` count beside those of the first in `of`.
    """

    of: tuple[str, ...]
    by: tuple[str, ...]


RERANKED = "GRAM, re-ranked"
FUSIONS: Mapping[str, Fusion] = {
    RERANKED: Fusion(("GRAM",), ("SASRec", "item-kNN", "popularity")),
    "GRAM + SASRec": Fusion(("GRAM", "SASRec"), ("SASRec",)),
    "GRAM + SASRec + kNN": Fusion(("GRAM", "SASRec"), ("SASRec", "item-kNN")),
    "GRAM + all": Fusion(("GRAM", "SASRec"), ("SASRec", "item-kNN", "transition-graph")),
    # The same without GRAM, for what GRAM adds.
    "SASRec + kNN": Fusion(("SASRec",), ("item-kNN",)),
    "all but GRAM": Fusion(("SASRec",), ("item-kNN", "transition-graph")),
}


@dataclass(frozen=True, eq=False)
class Reranking:
    """Weights that were chosen on validation items.

    Attributes:
        record: all of it as JSON values: `key`, `artefact`, `inputs` (hashes of model, data and SASRec), `settings`,
            `versions`, `spread` of each recommender, and `rows`, as in [`FUSIONS`], `{row: {protocol: {"weights",
            "validation", "tried"}}}`. `validation` has NDCG@10 and recall@10 of the first recommender alone and of what
            was chosen, with intervals; the latter flatter, since the weights were chosen by them.
    """

    record: dict[str, Any]

    @property
    def weights(self) -> dict[str, dict[str, dict[str, float]]]:
        """`{row: {protocol: {recommender: weight}}}`."""
        rows = self.record["rows"].items()
        return {row: {protocol: of["weights"] for protocol, of in by.items()} for row, by in rows}

    def rankings(self, found: PutForward, targets: np.ndarray, num_items: int) -> dict[str, dict[str, Ranking]]:
        """What becomes of each row's candidates, `{row: {protocol: ranking}}`, in a catalogue of so many items."""
        rankings = {row: {} for row in self.weights}
        for row, by_protocol in self.weights.items():
            for protocol, weights in by_protocol.items():
                ranked = weighted_ranking(*found.of(FUSIONS[row], protocol), weights, self.record["spread"])
                rankings[row][protocol] = Ranking.of(ranked, targets, num_items)
        return rankings


@dataclass(frozen=True, eq=False)
class PutForward:
    """What is to be ranked for U users: candidates of GRAM and SASRec, with everybody's scores."""

    # for each protocol beam search's and behind them SASRec's best, with GRAM's scores
    candidates: dict[str, Candidates]
    scores: dict[str, dict[str, np.ndarray]]  # `{protocol: {recommender: (U, C) float32}}` of the candidates
    # for each recommender (U,) float32 standard deviations of its scores over the whole catalogue
    spread: dict[str, np.ndarray]

    def of(self, fusion: Fusion, protocol: str) -> tuple[Candidates, dict[str, np.ndarray]]:
        """What a fusion ranks, with the scores that count in it."""
        candidates, scores = self.candidates[protocol], self.scores[protocol]
        if fusion.of == ("GRAM",):
            return candidates.generated, {name: scores[name][:, : candidates.num_generated] for name in fusion.by}
        if "GRAM" in fusion.of:
            return candidates, {name: scores[name] for name in fusion.by}
        (own,) = fusion.of
        none = candidates.items < 0
        best = np.argsort(np.where(none, np.inf, -scores[own]), axis=1, kind="stable")[:, : candidates.num_generated]
        items = np.take_along_axis(candidates.items, best, axis=1)
        nothing = np.where(items < 0, -np.inf, np.float32(0))
        counted = {name: np.take_along_axis(scores[name], best, axis=1) for name in (own, *fusion.by)}
        return Candidates(items, nothing, candidates.num_generated), counted


def put_forward(
    model,
    tokenizer,
    histories: Sequence[np.ndarray],
    scorers: Mapping[str, Recommender],
    num_beams: int = 50,
    **search,
) -> PutForward:
    """GRAM's candidates under every protocol, and `num_beams` of SASRec, with all scores.

    Args:
        model, tokenizer, histories, num_beams, search: as of [`gram_candidates`].
        scorers: recommenders by name, SASRec among them.
    """
    best = best_items(scorers["SASRec"], histories, min(num_beams, len(tokenizer.item_ids)))
    candidates = gram_candidates(model, tokenizer, histories, num_beams=num_beams, others=best, **search)
    spread = {name: np.zeros(len(histories), dtype=np.float32) for name in scorers}
    scores = {key: {name: np.zeros_like(of.scores) for name in scorers} for key, of in candidates.items()}
    for name, scorer in scorers.items():
        for some, catalogue in scored(scorer, histories):
            spread[name][some] = catalogue.numpy().std(axis=1)
            for protocol, of in candidates.items():
                rows = np.maximum(of.items[some], 0)
                scores[protocol][name][some] = np.take_along_axis(catalogue.numpy(), rows, axis=1)
    return PutForward(candidates, scores, spread)


def choose_reranking(
    path: str | Path,
    model,
    tokenizer,
    known: RecommendationData,
    scorers: Mapping[str, Recommender],
    num_beams: int = 50,
    max_users: int | None = None,
    accelerator: Accelerator | None = None,
    item_cache: ItemCache | None = None,
    **search,
) -> Reranking:
    """Choose weights by the users' validation items; kept in a file, and taken from it where nothing has changed.

    Every process of `accelerator` calls this, ranks for its share of the users, and returns the same.

    Args:
        path: of the JSON file.
        model, tokenizer, num_beams, item_cache, search: as of [`put_forward`].
        known: in rows of the tokenizer's catalogue, without test interactions: see `gram.data.without_test`.
        scorers: the recommenders of [`FUSIONS`] by name, which learnt from the training part alone.
        max_users, accelerator: as of `gram.evaluation.full_ranking.evaluate`.

    Raises:
        ValueError: the data hold a test interaction, or no validation item.
    """
    if (known.splits == TEST).any():
        raise ValueError("known: holds test interactions, by which nothing may be chosen; cut them by `without_test`")
    accelerator = accelerator or make_accelerator()
    histories, targets = evaluation_histories(known, "validation")
    users = drawn_users(len(targets), max_users)
    num_users, targets = len(users), targets[users]
    provenance = _provenance(model, tokenizer, known, scorers, num_beams, num_users, item_cache)
    record = json_in(Path(path))
    accelerator.wait_for_everyone()  # before anybody writes
    if record.get("key") == provenance.key:
        return Reranking(record)

    own = [histories[user] for user in users[own_share(num_users, accelerator)]]
    found = put_forward(model, tokenizer, own, scorers, num_beams, item_cache=item_cache, **search)
    found = _gather(found, num_users, accelerator)
    spread = {name: float(of.mean(dtype=np.float64)) for name, of in found.spread.items()}
    rows = {row: {name: _choose(found, row, name, spread, targets) for name in PROTOCOLS} for row in FUSIONS}
    record = {**provenance.facts, "spread": spread, "rows": rows}
    if accelerator.is_main_process:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part:
            part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return Reranking(record)


def _choose(found: PutForward, row: str, protocol: str, spread, targets: np.ndarray) -> dict[str, Any]:
    first, *_ = FUSIONS[row].of
    candidates, scores = found.of(FUSIONS[row], protocol)
    given = {first: 1.0} if first in scores else {}
    weights, tried = choose_weights(candidates, scores, spread, targets, given)
    alone = candidates.items if given else candidates.generated.items
    ranked = {first: alone, row: weighted_ranking(candidates, scores, weights, spread)}
    validation = {name: ranking_metrics(target_ranks(items, targets), (10,)) for name, items in ranked.items()}
    return {"weights": weights, "validation": validation, "tried": tried}


def _gather(found: PutForward, num_users: int, accelerator: Accelerator) -> PutForward:
    """What all processes have found for their users."""

    def joined(values: np.ndarray | Candidates | dict):
        if isinstance(values, dict):
            return {name: joined(of) for name, of in values.items()}
        if isinstance(values, Candidates):
            return Candidates(joined(values.items), joined(values.scores), values.num_generated)
        return gather_users(values, num_users, accelerator)

    return PutForward(joined(found.candidates), joined(found.scores), joined(found.spread))


def hashes_of(model, tokenizer, sasrec) -> dict[str, str]:
    """What stands for the models of an evaluation where it is said what something was made from."""
    return {"model": hash_of_model(model), "tokenizer": hash_of_tokenizer(tokenizer), "SASRec": hash_of_weights(sasrec)}


def _provenance(model, tokenizer, known, scorers, num_beams, num_users, item_cache) -> Provenance:
    """All that decides the weights. Popularity follows from the data."""
    inputs = hashes_of(model, tokenizer, scorers["SASRec"])
    inputs["interactions without test"] = hash_of_interactions(known.interactions, known.splits)
    settings = {
        "users": num_users,
        "drawn": "at random, seed 0",
        "num_beams": num_beams,
        **{name: asdict(scorers[name].settings) for name in ("item-kNN", "transition-graph")},
        "item_encodings": item_cache.dtype if item_cache else "float32",
        "fusions": {row: [list(fusion.of), list(fusion.by)] for row, fusion in FUSIONS.items()},
        "grid": list(GRID),
        "rounds": ROUNDS,
        "judged by": "ndcg@10",
    }
    return Provenance("reranking", inputs, settings)
