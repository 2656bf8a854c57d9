"""Translate and train from Python: `python examples/train.py`, or `accelerate launch examples/train.py`."""

import argparse

from gram.data import read_folder
from gram.tokenization_gram import GramTokenizer
from gram.train_accelerate import train
from gram.training.settings import TrainingSettings
from gram.translation import TranslationSettings
from gram.translation.tokenizer_folder import make_tokenizer_folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="runs/quickstart/data")
    parser.add_argument("--output-dir", default="runs/trained")
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()

    data = read_folder(arguments.data)
    settings = TrainingSettings(
        data=arguments.data,
        output_dir=arguments.output_dir,
        translation=f"{arguments.output_dir}/translation",
        d_model=32,  # far too small for more than a look; the defaults are T5-small's and the paper's
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        max_history=5,
        max_passage_length=32,
        epochs=arguments.epochs,
        validation_users=100,
        validation_beams=20,
    )
    print(
        make_tokenizer_folder(
            data,
            settings.translation,
            TranslationSettings(num_clusters=16, depth=3, num_similar=3, similar_items="item-knn", vocab_size=1000),
            max_history=settings.max_history,
            max_passage_length=settings.max_passage_length,
        )
    )
    train(settings, data, GramTokenizer.from_pretrained(settings.translation))
    print(f"the model is in {settings.output_dir}")


if __name__ == "__main__":
    main()
