"""Recommend only some items of the catalogue, and never those: `python examples/choose_items.py --word Comedy`."""

import argparse

import torch

from gram.serving.loading import load_model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart")
    parser.add_argument("--history", nargs="+", metavar="ID", help="item ids, oldest first")
    parser.add_argument("--word", default="Comedy", help="items whose text has this word are allowed")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="ID", help="items out of stock, say")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    history = arguments.history or tokenizer.item_ids[:2]

    # The search itself is restricted: all of the beams go into what is allowed.
    texts = tokenizer.catalogue["text"].to_pylist()
    allowed = [row for row, text in enumerate(texts) if arguments.word in text]
    if not allowed:
        raise SystemExit(f"no text of the catalogue has the word {arguments.word!r}")

    # Each user may have other items to leave out: rows of the catalogue, padded with -1.
    excluded = torch.tensor([[tokenizer.item_rows[item] for item in [*history, *arguments.exclude]]])
    inputs = tokenizer(histories=[history], return_tensors="pt")
    output = model.generate(
        **inputs.to(model.device),
        allowed_items=allowed,
        excluded_items=excluded.to(model.device),
        num_beams=50,
        num_return_sequences=5,
        return_dict_in_generate=True,
    )
    print(f"{len(allowed)} of {len(texts)} items are allowed")
    for row, score in zip(output.item_indices[0].tolist(), output.sequences_scores.tolist(), strict=True):
        if row >= 0:
            print(f"{score:.3f}  {texts[row]}")


if __name__ == "__main__":
    main()
