"""Compare encoders of item texts by the ID trees that they give: `python examples/compare_encoders.py`.

`tfidf-svd` is built in; every other name is a sentence-transformers model:
`python examples/compare_encoders.py --encoders tfidf-svd sentence-transformers/all-MiniLM-L6-v2`.
"""

import argparse

from gram.data import read_folder
from gram.tokenization_gram import GramTokenizer
from gram.translation import TranslationSettings, translate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="runs/quickstart/data")
    parser.add_argument("--tokenizer", default="runs/quickstart/translation", help="whose vocabulary spells the IDs")
    parser.add_argument("--encoders", nargs="+", default=["tfidf-svd"])
    parser.add_argument("--items", nargs="+", help="item ids to show (the first three of the catalogue)")
    arguments = parser.parse_args()

    data, words = read_folder(arguments.data), GramTokenizer.from_pretrained(arguments.tokenizer)
    for encoder in arguments.encoders:
        settings = TranslationSettings(
            encoder=encoder, num_clusters=16, depth=3, num_similar=1, similar_items="item-knn"
        )
        translation = translate(data, words, settings, progress=False)
        print(f"\n{encoder}\n{translation.statistics}")
        shown = set(arguments.items or data.items.item_ids[:3])
        for item in translation.catalogue.to_pylist():
            if item["item_id"] in shown:
                print(f"  {item['title']}: {' '.join(item['lexical_id'])}")


if __name__ == "__main__":
    main()
