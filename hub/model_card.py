"""The model card: every figure in it is read from the files that training and evaluation left in the folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
PROTOCOLS = {"all_items": "all items may be recommended", "unseen_items": "items of the history are masked"}
SPLITS = {
    True: "The last item of every user is for testing, the one before for validation; neither was trained on.",
    False: "The training, validation and test parts follow each other in time; only the first of them was trained on.",
}
PLACES = ("data", "output_dir", "translation")  # folders of one machine

USAGE = """```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
inputs = tokenizer(histories=[{history}], return_tensors="pt")  # item ids, oldest first
output = model.generate(**inputs, num_beams=50, num_return_sequences=10, return_dict_in_generate=True)
print(tokenizer.decode_items(output.sequences))
```"""


def write_model_card(folder: str | Path, data_name: str) -> Path:
    """Write `README.md` into a model folder that holds `training.json` and `evaluation.json`.

    Args:
        folder: the model folder.
        data_name: what the data are called.

    Returns:
        The card's path.

    Raises:
        FileNotFoundError: the model has not been trained or evaluated there.
    """
    folder = Path(folder)
    training, evaluation = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("training.json", "evaluation.json")
    )
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        tags=["recommendation", "generative-retrieval", "gram"],
        model_name=folder.resolve().name,
        eval_results=_eval_results(evaluation, data_name),
    )
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(folder, training, evaluation, data_name)}\n")
    path = folder / "README.md"
    temporary = path.with_name(".README.md.part")
    card.save(temporary)
    os.replace(temporary, path)
    return path


def _eval_results(evaluation: dict, data_name: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="generative-recommendation",
            dataset_type=data_name.lower(),
            dataset_name=data_name,
            dataset_split=evaluation["split"],
            metric_type=metric,
            metric_name=f"{metric}, {PROTOCOLS[protocol]}",
            metric_value=round(by_metric[metric]["mean"], 4),
        )
        for protocol, by_metric in evaluation["models"]["GRAM"].items()
        for metric in METRICS
    ]


def _text(folder: Path, training: dict, evaluation: dict, data_name: str) -> str:
    from ..tokenization_gram import GramTokenizer

    history = json.dumps(GramTokenizer.from_pretrained(folder).item_ids[:2])
    size, progress = evaluation["data"], training["progress"]
    lines = [
        f"# GRAM on {data_name}",
        "",
        "A generative recommender (arXiv 2506.01673): it reads a history of items as text and spells out the lexical",
        "ID of the next item, held to the catalogue.",
        "",
        USAGE.format(name=folder.resolve().name, history=history),
        "",
        "## Data",
        "",
        f"{size['users']:,} users, {size['items']:,} items, {size['interactions']:,} interactions.",
        SPLITS[size["leave_one_out"]],
        "",
        "## Evaluation",
        "",
        f"Full ranking of the catalogue for {evaluation['users']:,} {evaluation['split']} users,",
        f"{evaluation['num_beams']} beams; in brackets the 95 % interval over users.",
    ]
    for protocol, meaning in PROTOCOLS.items():
        head = f"| | {' | '.join(METRICS)} |"
        lines += ["", f"{meaning[0].upper()}{meaning[1:]}:", "", head, "|---|" + "---|" * len(METRICS)]
        for model, by_protocol in evaluation["models"].items():
            cells = ("{mean:.4f} ({low:.4f}-{high:.4f})".format(**by_protocol[protocol][metric]) for metric in METRICS)
            lines.append(f"| {model} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Training",
        "",
        f"{progress['updates']:,} optimizer steps, {progress['samples']:,} samples,",
        f"{progress['seconds'] / 60:.1f} minutes.",
        "",
        "| setting | value |",
        "|---|---|",
    ]
    settings = training["settings"].items()
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in settings if name not in PLACES)])
