"""Fine-tune a trained GRAM with LoRA adapters, on the same catalogue: `python examples/fine_tune_lora.py`."""

import argparse

from gram.data import read_folder
from gram.tokenization_gram import GramTokenizer
from gram.train_accelerate import train
from gram.training.settings import TrainingSettings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart", help="a trained GRAM")
    parser.add_argument("--data", default="runs/quickstart/data", help="whose items are the model's")
    parser.add_argument("--output-dir", default="runs/adapted")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters")
    arguments = parser.parse_args()

    tokenizer = GramTokenizer.from_pretrained(arguments.model)
    settings = TrainingSettings(
        data=arguments.data,
        output_dir=arguments.output_dir,
        init_from=arguments.model,
        lora=arguments.rank,
        max_history=tokenizer.max_history,
        max_passage_length=tokenizer.max_passage_length,
        learning_rate=1e-3,
        epochs=1,
        validation_users=100,
        validation_beams=20,
    )
    train(settings, read_folder(arguments.data), tokenizer)
    print(f"the adapted model is in {arguments.output_dir}; it is loaded as every GRAM is")


if __name__ == "__main__":
    main()
