"""Items for a history without torch: `python examples/recommend_with_onnx.py runs/onnx`, made by `gram export`."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow.parquet as pq


def load(folder: Path):
    graphs = [onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("encoder", "memory", "decoder")]
    settings = json.loads((folder / "gram.json").read_text(encoding="utf-8"))
    items = pq.read_table(
        folder / "catalogue.parquet", columns=["item_id", "title", "lexical_id_tokens", "item_prompt"]
    )
    return settings, dict(np.load(folder / "trie.npz")), items, *graphs


def recommend(loaded, history, top_k=10, num_beams=50, exclude_seen=True):  # catalogue rows, oldest first
    settings, trie, items, encoder, memory, decoder = loaded
    read = items.take(history[: -settings["max_history"] - 1 : -1])  # newest first
    begin, between, end = settings["user_prompt"] or [[], [], []]
    ids = [token for item in read["lexical_id_tokens"].to_pylist() for token in between + item][len(between) :]
    user = [*[*begin, *ids, *end][: settings["max_passage_length"] - 1], settings["eos_token_id"]]
    prompts = [user if settings["user_prompt"] else [], *read["item_prompt"].to_pylist()]
    lengths = np.array([len(prompt) for prompt in prompts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    input_ids = np.zeros(mask.shape, dtype=np.int64)
    input_ids[mask] = np.concatenate(prompts)
    (states,) = encoder.run(None, {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)})
    places = np.repeat(np.arange(len(prompts)), lengths)
    attended = {"memory": memory.run(None, {"states": states[mask][None], "places": places[None]})[0]}
    attended["mask"] = np.ones((1, len(places)), dtype=bool)
    taken, below = np.zeros_like(trie["sizes"]), trie["leaves"][np.unique(history)].clip(0) * exclude_seen
    for _ in trie["fan_out"]:  # from leaves to the root; where all the items below a node are taken, nothing goes
        np.add.at(taken, below, below > 0)
        below = trie["parents"][below]
    (nodes, parents, sums), past, found = np.zeros((3, 1, 1), int), np.zeros(settings["past_shape"], np.float32), []
    for length in range(1, len(trie["fan_out"]) + 1):
        first, after = trie["offsets"][nodes, None], trie["offsets"][nodes + 1, None]
        children = first + np.arange((after - first).max())  # (1, W, F)
        legal, children = children < after, np.where(children < after, children, 0)
        tokens = np.where(nodes > 0, trie["tokens"][nodes], settings["decoder_start_token_id"])
        step = {"tokens": tokens, "parents": parents, "candidates": trie["tokens"][children].clip(0)}
        step = {name: values.astype(np.int64) for name, values in step.items()}
        log_probs, past = decoder.run(None, {**step, "past": past, "legal": legal, **attended})
        totals = np.where(taken[children] < trie["sizes"][children], sums[..., None] + log_probs, -np.inf).ravel()
        rows, finite = trie["items"][children].ravel(), totals > -np.inf
        ends, goes_on = np.flatnonzero(finite & (rows >= 0)), np.flatnonzero(finite & (rows < 0))
        found += zip(rows[ends].tolist(), (totals[ends] / length ** settings["length_penalty"]).tolist(), strict=True)
        best = goes_on[np.argsort(-totals[goes_on], kind="stable")[:num_beams]]
        nodes, parents, sums = children.ravel()[best][None], best[None] // children.shape[2], totals[best][None]
        if not len(best):
            break
    return sorted(found, key=lambda pair: -pair[1])[:top_k]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/onnx"), help="what `gram export` wrote")
    parser.add_argument("--history", nargs="+", metavar="ID", help="item ids, oldest first")
    arguments = parser.parse_args()
    loaded = load(arguments.folder)
    ids, titles = (loaded[2][name].to_pylist() for name in ("item_id", "title"))
    history = arguments.history or ids[:2]
    if unknown := [item for item in history if item not in ids]:
        parser.error(f"not in the catalogue: {' '.join(unknown)}")
    for rank, (row, score) in enumerate(recommend(loaded, list(map(ids.index, history))), start=1):
        print(f"{rank:>3}  {score:.3f}  {ids[row]:>6}  {titles[row]}")


if __name__ == "__main__":
    main()
