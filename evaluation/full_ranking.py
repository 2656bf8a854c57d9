"""Full ranking by item ids: recall and NDCG of GRAM and of the baselines, on the same users.

Every user that is evaluated has one held-out item, the target. A model ranks the whole catalogue, and the target's
rank alone decides (see `rankings`).

Two protocols are measured side by side, `all_items` and `unseen_items` (see `candidates`). Under the latter a target
that the user has had before cannot be recommended, and counts as a miss: every protocol has the same users, so
that its rows can be compared.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..collaborative.baselines import Recommender, counted_baselines
from ..collaborative.fitting import fit_or_load, is_fitted_on
from ..collaborative.sasrec import SASRec
from ..common.files import check_outputs, holds_json, holds_table, new_files
from ..common.processes import Accelerator, make_accelerator, own_share
from ..common.provenance import Provenance, hash_of_interactions, hash_of_weights
from ..data import ItemTable, RecommendationData, drawn_users, evaluation_histories, training_part, without_test
from ..item_cache_gram import ItemCache
from ..training.facts import data_facts
from ..translation.embedding import embed_texts
from .candidates import Ranking, best_items, gram_candidates
from .rankings import CUTOFFS, PROTOCOLS, row_metrics, served_cells
from .reranking import choose_reranking, hashes_of, put_forward

PER_USER = ("user_id", "item_id", "model", "protocol", "rank")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Attributes:
        results: `{"model", "weights", "provenance", "split", "users", "num_beams", "data", "models": {name: {protocol:
            {metric: {"mean", "low", "high"}}}}, "seconds": {name: seconds}}`. Beside its metrics a row has
            `by_times_seen` and more, see `row_metrics` of `rankings`. `weights` is the SHA-256 of GRAM's;
            `provenance` is what was measured on what, and stands in the head of the file of ranks too: two files of one
            key belong together. A baseline's seconds include its training. With re-ranking, GRAM's include that of
            SASRec's items, and there is `"reranking": {"file", "key", "seconds", "weights"}`: the file of the weights,
            its key, what choosing took, and the weights.
        per_user: one row per user, model and protocol: `user_id`, `item_id` (the target), `model`, `protocol`, `rank`
            (null beyond 50).
    """

    results: dict[str, Any]
    per_user: pa.Table

    def save(self, output: str | Path) -> None:
        """Write the results as JSON, and the ranks of all users as Parquet beside them, of the same name."""
        output, table = result_files(output)
        output.parent.mkdir(parents=True, exist_ok=True)
        with new_files(table, output) as (table_part, part):
            pq.write_table(self.per_user, table_part)
            part.write_text(json.dumps(self.results, indent=2) + "\n", encoding="utf-8")


def result_files(output: str | Path) -> tuple[Path, Path]:
    """The JSON file of an evaluation, and the Parquet file beside it.

    Raises:
        ValueError: the name does not end in `.json`, or is a folder's; one of them is there and no evaluation's.
    """
    output = Path(output)
    if output.suffix != ".json" or output.is_dir():
        raise ValueError(f"{output}: results are written as JSON; give a file name that ends in .json")
    table, entries = output.with_suffix(".parquet"), ("split", "users", "num_beams", "models")
    check_outputs({output: lambda path: holds_json(path, *entries), table: lambda path: holds_table(path, *PER_USER)})
    return output, table


def evaluate(
    model,
    tokenizer,
    data: RecommendationData,
    sasrec_file: str | Path,
    model_sasrec: str | Path | None = None,
    split: str = "test",
    num_beams: int = 50,
    max_users: int | None = None,
    batch_size: int = 16,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    item_cache: ItemCache | None = None,
    reranking_file: str | Path | None = None,
) -> Evaluation:
    """Rank the held-out item of every user by GRAM, SASRec and the counted baselines, under both protocols.

    The baselines learn from the training part of the users' sequences only. Every process of `accelerator` calls this,
    evaluates its share of the users, and returns the results of all.

    Args:
        model, tokenizer, batch_size, progress, item_cache: as of [`gram_candidates`].
        data: whole sequences of the users.
        sasrec_file: the SASRec is loaded from here if it was trained on exactly the training part of these data;
            otherwise one is trained and saved here.
        model_sasrec: that of the model's similar items, which is taken instead under the same condition.
        split: `"validation"` or `"test"`.
        num_beams: width of GRAM's search, and how many items it ranks: below 50 its recall@50 is cut short.
        max_users: only so many users, drawn at random, for a quick look.
        accelerator: where to run; by default all of the launched processes.
        reranking_file: rank by GRAM and collaborative scores together too (see [`choose_reranking`]), with the weights
            that this JSON file keeps; if it has none for exactly this, they are chosen before anything else.

    Raises:
        ValueError: an item of the data is not in the tokenizer's catalogue; a split or a number that cannot be;
            re-ranking of the items by which its weights are chosen.
    """
    if reranking_file is not None and split != "test":
        raise ValueError(f"reranking: weights are chosen on the validation items; the split must be test, not {split}")
    for name, value in (("num_beams", num_beams), ("max_users", max_users), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    accelerator = accelerator or make_accelerator()
    progress = progress and accelerator.is_main_process
    data = data.in_catalogue(ItemTable.from_catalogue(tokenizer.catalogue))
    histories, targets = evaluation_histories(data, split)
    users = drawn_users(len(targets), max_users)
    num_users, num_items = len(users), len(tokenizer.item_ids)
    share = users[own_share(num_users, accelerator)]
    own_histories, own_targets = [histories[user] for user in share], targets[share]
    training, model = training_part(data), model.to(accelerator.device)
    counts = np.bincount(training.items, minlength=num_items)
    search = {"num_beams": num_beams, "batch_size": batch_size, "progress": progress, "item_cache": item_cache}
    scorers, rankings, seconds, start = {}, {}, {}, time.perf_counter()

    def sasrec() -> SASRec:
        if model_sasrec is not None and is_fitted_on(model_sasrec, training, num_items):
            return SASRec.load(model_sasrec)
        with accelerator.main_process_first():  # the others load what the first has saved
            return fit_or_load(sasrec_file, training, num_items, progress=progress)

    def took(name: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[name], start = round(seconds.get(name, 0.0) + now - start, 2), now

    def add(name: str, by_protocol: dict[str, Ranking]) -> None:
        rankings[name] = {key: own.of_all(num_users, accelerator) for key, own in by_protocol.items()}
        took(name)

    vectors = embed_texts(data.items.texts)
    took("transition-graph")
    for name, make in {"SASRec": sasrec, **counted_baselines(training, vectors)}.items():
        scorers[name] = make()
        took(name)
    if reranking_file is None:
        reranking, candidates = None, gram_candidates(model, tokenizer, own_histories, **search)
    else:
        options = {"max_users": max_users, "accelerator": accelerator, **search}
        reranking = choose_reranking(reranking_file, model, tokenizer, without_test(data), scorers, **options)
        took("choosing")  # before anything of the test split is ranked
        found = put_forward(model, tokenizer, own_histories, scorers, **search)
        candidates = found.candidates
    generated = {protocol: of.generated.items for protocol, of in candidates.items()}
    add("GRAM", {protocol: Ranking.of(items, own_targets, num_items) for protocol, items in generated.items()})
    for name, by_protocol in reranking.rankings(found, own_targets, num_items).items() if reranking else ():
        add(name, by_protocol)
    for name, scorer in scorers.items():
        add(name, dense_rankings(scorer, own_histories, own_targets, num_items))

    inputs = hashes_of(model, tokenizer, scorers["SASRec"])
    inputs["interactions"] = hash_of_interactions(data.interactions, data.splits)
    if reranking is not None:
        inputs["reranking"] = reranking.record["key"]
    stored = item_cache.dtype if item_cache else "float32"
    facts = {"split": split, "users": num_users, "num_beams": num_beams, "item_encodings": stored}
    provenance = Provenance("evaluation", inputs, facts)
    sizes = {name: of for name, of in data_facts(data).items() if name not in ("split", "prepared")}
    results = {
        "model": model.name_or_path,
        "weights": hash_of_weights(model),
        "provenance": provenance.facts,
        **facts,
        "data": {"folder": None if data.folder is None else str(data.folder), **sizes},
        "models": {
            name: {key: row_metrics(of, targets[users], counts) for key, of in by_protocol.items()}
            for name, by_protocol in rankings.items()
        },
        "seconds": seconds,
    }
    if reranking is not None:
        facts = {"file": Path(reranking_file).name, "key": reranking.record["key"]}
        results["reranking"] = {**facts, "seconds": seconds.pop("choosing"), "weights": reranking.weights}
    names = [histories.user_ids[user] for user in users]
    target_ids = [tokenizer.item_ids[row] for row in targets[users]]
    per_user = ranks_table(names, target_ids, rankings).replace_schema_metadata(provenance.metadata)
    return Evaluation(results, per_user)


def dense_rankings(
    recommender: Recommender, histories: list[np.ndarray], targets: np.ndarray, num_items: int
) -> dict[str, Ranking]:
    """Under each protocol what becomes of the users' targets (U,), where a recommender scores the whole catalogue.

    Of items with equal scores the one with the lower catalogue row comes first: ties are broken alike for every user
    and never in the target's favour. A target that is masked has the rank 0.
    """
    best = best_items(recommender, histories, min(max(CUTOFFS), num_items))
    return {protocol: Ranking.of(items, targets, num_items) for protocol, items in best.items()}


def ranks_table(user_ids: list[str], item_ids: list[str], rankings: dict[str, dict[str, Ranking]]) -> pa.Table:
    """One row per model, protocol and user, as [`Evaluation`] has it, of U users and their targets."""
    blocks = []
    for name, by_protocol in rankings.items():
        for protocol, ranking in by_protocol.items():
            values = ranking.ranks
            place = pa.array(values.astype(np.int32), mask=(values < 1) | (values > max(CUTOFFS)))
            model, of = (pa.repeat(text, len(values)) for text in (name, protocol))
            blocks.append(pa.table([user_ids, item_ids, model, of, place], names=PER_USER))
    return pa.concat_tables(blocks)


def format_table(results: dict[str, Any]) -> str:
    """The results as text, a table per protocol: R is recall, N is NDCG, and the interval is that of N@10.

    Below each there is another: N@10 by how often the target was seen in training, and what is recommended.
    """
    columns = [f"{metric}@{k}" for k in CUTOFFS for metric in ("recall", "ndcg") if (metric, k) != ("ndcg", 1)]
    head = "".join(f"{name[0].upper() + name[name.index('@') :]:>7}" for name in columns) + f"{'N@10, 95 %':>15}"
    width, lines = max(11, *(len(name) + 2 for name in results["models"])), []
    for protocol, meaning in PROTOCOLS.items():
        lines += ["", f"{results['users']} {results['split']} users, {meaning}", f"{'':<{width}}{head}"]
        for name, by_protocol in results["models"].items():
            metrics = by_protocol[protocol]
            row = "".join(f"{metrics[column]['mean']:>7.4f}" for column in columns)
            lines.append(f"{name:<{width}}{row}  {metrics['ndcg@10']['low']:.4f}-{metrics['ndcg@10']['high']:.4f}")
        lines.append("")
        for name, *cells in served_cells(results["models"], protocol):
            lines.append(f"{name:<{width}}" + "".join(f"{cell.split(' ')[0]:>12}" for cell in cells))
    return "\n".join(lines[1:])
