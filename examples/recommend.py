"""Items for a history, as a pipeline: `python examples/recommend.py --history 50 172`."""

import argparse

from transformers import pipeline


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart", help="model folder, or a name on the Hub")
    parser.add_argument("--history", nargs="+", metavar="ID", help="item ids, oldest first")
    parser.add_argument("--top-k", type=int, default=10)
    arguments = parser.parse_args()

    recommend = pipeline("generative-recommendation", model=arguments.model, trust_remote_code=True)
    catalogue = recommend.tokenizer.item_rows
    titles = recommend.tokenizer.titles
    history = arguments.history or list(catalogue)[:2]
    print("after", " | ".join(titles[catalogue[item]] for item in history if item in catalogue))
    for rank, item in enumerate(recommend(history, top_k=arguments.top_k), start=1):
        print(f"{rank:>3}  {item['score']:.3f}  {item['item_id']:>6}  {item['title']}")


if __name__ == "__main__":
    main()
