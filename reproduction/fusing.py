"""Rows that rank the candidates of GRAM and SASRec by several recommenders. One search serves all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ..common.files import locked, new_file
from ..common.provenance import hash_of_file
from ..data import evaluation_histories, without_test
from ..evaluation.candidates import PROTOCOLS
from ..evaluation.reranking import FUSIONS, Reranking, choose_reranking, put_forward
from ..serving.loading import load_model
from .comparing import hash_of_data
from .rows import ROWS
from .runs import NUM_BEAMS, SPLIT, Outcome, Place, Run, item_knn, popularity, train_gram, train_sasrec

CHOOSING_USERS = 5000  # on whose validation items weights are chosen
Ranks = dict[str, dict[str, np.ndarray]]  # {row: {protocol: (U,)}}


def run_fusion(run: Run, place: Place) -> Outcome:
    """Train what the row fuses, choose its weights on validation items, and rank for every test user.

    Weights and ranks of all fusions of a model are kept in `runs/fusion-of-ROW-seedN`: the first row that needs them
    searches for all.
    """
    title, of = ROWS[run.row].title, replace(run, row=ROWS[run.row].of)
    gram, sasrec = train_gram(of, place), train_sasrec(run, place)
    neighbours, knn_settings = item_knn(run, place)
    scorers = {"SASRec": sasrec.model, "item-kNN": neighbours, "popularity": popularity(place)}
    model, tokenizer = load_model(gram.folder)
    model = model.to(place.accelerator.device)
    start = time.perf_counter()
    folder = place.folder / "runs" / f"fusion-of-{of.name}"
    options = {"num_beams": NUM_BEAMS, "progress": place.progress}
    with locked(folder, wait=True):
        reranking = choose_reranking(
            folder / "weights.json",
            model,
            tokenizer,
            without_test(place.data),
            scorers,
            max_users=CHOOSING_USERS,
            accelerator=place.accelerator,
            **options,
        )
        chosen = time.perf_counter()

        def ranked() -> tuple[Ranks, dict[str, float]]:
            histories, targets = evaluation_histories(place.data, SPLIT)
            ranks = reranking.ranks(put_forward(model, tokenizer, list(histories), scorers, **options), targets)
            return ranks, {"choosing": chosen - start, "evaluation": time.perf_counter() - chosen}

        ranks, seconds = _kept(folder / "ranks.npz", reranking, hash_of_data(place.data), ranked)
    fused = {"sasrec": asdict(sasrec.settings), "item_knn": asdict(knn_settings), "weights": reranking.weights[title]}
    return Outcome(
        ranks[title],
        {**gram.hashes, "sasrec": hash_of_file(sasrec.path)},
        {**gram.seconds, **{part: round(taken, 2) for part, taken in seconds.items()}},
        {**run.settings, **fused},
        {"parameters": model.num_parameters(), "fusion": reranking.record["rows"][title]},
    )


def _kept(
    path: Path, reranking: Reranking, data_hash: str, make: Callable[[], tuple[Ranks, dict[str, float]]]
) -> tuple[Ranks, dict[str, float]]:
    """Ranks and seconds in the file, if they are of these weights and data; otherwise they are made and kept."""
    key = f"{reranking.record['key']} {data_hash}"
    if path.is_file():
        with np.load(path) as kept:
            if kept["key"] == key:
                ranks = {row: {protocol: kept[f"{row}/{protocol}"] for protocol in PROTOCOLS} for row in FUSIONS}
                return ranks, json.loads(str(kept["seconds"]))
    ranks, seconds = make()
    arrays = {f"{row}/{protocol}": of for row, by_protocol in ranks.items() for protocol, of in by_protocol.items()}
    with new_file(path) as part, part.open("wb") as file:
        np.savez(file, key=key, seconds=json.dumps(seconds), **arrays)
    return ranks, seconds
