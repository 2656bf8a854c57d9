"""Train and evaluate with a `Seq2SeqTrainer`: MODEL DATA OUTPUT ROWS, with so many rows in a step of a process."""

import json
import sys
from pathlib import Path

from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from gram import GramDataCollator, GramForConditionalGeneration, GramTokenizer, ranking_compute_metrics
from gram.data import read_folder, samples_of

model_folder, data_folder, output, rows = sys.argv[1:]
tokenizer, data = GramTokenizer.from_pretrained(model_folder), read_folder(data_folder)
test = samples_of(data, "test", max_history=8).select(range(7))  # no multiple of what processes take at once
settings = Seq2SeqTrainingArguments(
    output_dir=f"{output}.run",
    max_steps=3,
    per_device_train_batch_size=int(rows),
    per_device_eval_batch_size=2,
    train_sampling_strategy="sequential",
    learning_rate=0.01,
    logging_steps=1,
    save_strategy="no",
    predict_with_generate=True,
    remove_unused_columns=False,
    use_cpu=True,
    report_to=[],
    disable_tqdm=True,
)
trainer = Seq2SeqTrainer(
    model=GramForConditionalGeneration.from_pretrained(model_folder, dropout_rate=0.0),
    args=settings,
    data_collator=GramDataCollator(tokenizer),
    train_dataset=samples_of(data, "train", max_history=8, prefixes_per_group=4),
    compute_metrics=ranking_compute_metrics(tokenizer, k=(1, 5), num_users=len(test)),
)
trainer.train()
metrics = trainer.evaluate(test, num_beams=10, num_return_sequences=5)
if trainer.is_world_process_zero():
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    ranking = {name: value for name, value in metrics.items() if "@" in name}
    Path(output).write_text(json.dumps({"losses": losses, "metrics": ranking}))
