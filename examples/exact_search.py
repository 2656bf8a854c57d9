"""The provably best items beside those of beam search: `python examples/exact_search.py --history 50 172`."""

import argparse

from gram.serving.loading import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart")
    parser.add_argument("--history", nargs="+", metavar="ID", help="item ids, oldest first")
    parser.add_argument("--num-beams", type=int, default=20)
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    history = arguments.history or tokenizer.item_ids[:2]
    inputs = tokenizer(histories=[history], return_tensors="pt").to(model.device)
    search = {"num_return_sequences": 10, "return_dict_in_generate": True}
    exact = model.generate(**inputs, **search, exact=True)
    beams = model.generate(**inputs, **search, num_beams=max(arguments.num_beams, 10))
    found = set(beams.item_indices[0].tolist())
    print("rank  score   found by beams  title")
    for rank, row in enumerate(exact.item_indices[0].tolist()):
        if row >= 0:  # -1: the catalogue has no more items
            score = exact.sequences_scores[rank].item()
            print(f"{rank + 1:>4}  {score:.3f}  {'yes' if row in found else 'no':<14}  {tokenizer.titles[row]}")
    print(f"exact search looked at {exact.num_scored_nodes.item()} prefixes of {model.item_trie.num_nodes}")


if __name__ == "__main__":
    main()
