"""A new item, without training again: `python examples/add_items.py --title "Star Wars: A New Cut"`.

It takes a place in the ID tree beside the item whose text is nearest: the same prefix, and a last token of its own.
"""

import argparse
from pathlib import Path

import pyarrow as pa

from gram import GramTokenizer, ItemTrie
from gram.collaborative.neighbours import nearest_items
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.translation.embedding import embed_texts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart")
    parser.add_argument("--item-id", default="new-1")
    parser.add_argument("--title", default="The Newest Film")
    parser.add_argument("--text", help="of the form of the catalogue's texts (title: TITLE)")
    parser.add_argument("--output", type=Path, default="runs/grown", help="model folder with the larger catalogue")
    arguments = parser.parse_args()

    model, tokenizer = load_model(arguments.model)
    catalogue, text = tokenizer.catalogue, arguments.text or f"title: {arguments.title}"
    vectors = embed_texts([*catalogue["text"].to_pylist(), text])  # (I + 1, d)
    (nearest,) = nearest_items(vectors, 1)[-1].tolist()

    prefix = catalogue["lexical_id"][nearest].as_py()[:-1]
    siblings = {tuple(lexical_id) for lexical_id in catalogue["lexical_id"].to_pylist()}
    words = [token for token in tokenizer.tokenize(text) if len(token.strip("▁")) > 1]
    words += sorted(token for token in tokenizer.get_vocab() if token.startswith("▁") and len(token) > 2)
    token = next(token for token in words if (*prefix, token) not in siblings and token not in prefix)
    similar = [catalogue["item_id"][nearest].as_py()]
    row = {"item_id": arguments.item_id, "title": arguments.title, "text": text}
    row |= {"lexical_id": [*prefix, token], "similar_items": similar}  # nothing is known of its other fields
    grown = pa.concat_tables([catalogue, pa.Table.from_pylist([row], schema=catalogue.schema)])

    limits = {"max_history": tokenizer.max_history, "max_passage_length": tokenizer.max_passage_length}
    tokenizer = GramTokenizer.from_catalogue(tokenizer, grown, **limits)
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(f"{arguments.title} is {' '.join([*prefix, token])}, beside {tokenizer.titles[nearest]}")

    (found,) = Recommender(model, tokenizer).recommend([similar], top_k=len(tokenizer.item_ids) - 1)
    rank = next((rank for rank, item in enumerate(found, 1) if item.item_id == arguments.item_id), None)
    print(f"after {tokenizer.titles[nearest]} it has rank {rank} of {len(found)}; the model is in {arguments.output}")


if __name__ == "__main__":
    main()
