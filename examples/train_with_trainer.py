"""Train a GRAM further with transformers' `Trainer`: `python examples/train_with_trainer.py --steps 20`."""

import argparse

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from gram import GramDataCollator, GramForConditionalGeneration, GramTokenizer, ranking_compute_metrics
from gram.data import drawn_users, read_folder, samples_of


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/quickstart", help="a trained GRAM")
    parser.add_argument("--data", default="runs/quickstart/data", help="whose items are the model's")
    parser.add_argument("--output-dir", default="runs/with-trainer")
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()

    tokenizer = GramTokenizer.from_pretrained(arguments.model)
    model = GramForConditionalGeneration.from_pretrained(arguments.model)
    data = read_folder(arguments.data)
    test = samples_of(data, "test", tokenizer.max_history)
    test = test.select(drawn_users(len(test), most=200))
    trainer = Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=arguments.output_dir,
            max_steps=arguments.steps,
            per_device_train_batch_size=8,  # rows, of up to 16 samples each
            learning_rate=1e-4,
            logging_steps=10,
            save_strategy="no",
            predict_with_generate=True,
            remove_unused_columns=False,  # the collator needs them
            report_to=[],
        ),
        data_collator=GramDataCollator(tokenizer, exclude_seen=True),
        train_dataset=samples_of(data, "train", tokenizer.max_history, prefixes_per_group=16),
        compute_metrics=ranking_compute_metrics(tokenizer, k=(5, 10), num_users=len(test)),
        processing_class=tokenizer,
    )
    trainer.train()
    metrics = trainer.evaluate(test, num_beams=20, num_return_sequences=10)
    print(f"recall@10 {metrics['eval_recall@10']:.3f}, NDCG@10 {metrics['eval_ndcg@10']:.3f}")
    trainer.save_model()
    print(f"the model is in {arguments.output_dir}; it is loaded as every GRAM is")


if __name__ == "__main__":
    main()
