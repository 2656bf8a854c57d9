"""The model card: every figure in it is read from the files of the model folder, or measured when it is written."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from ..common.files import new_file
from ..common.text import _in_one_line, duration, markdown_table, plain
from ..evaluation.rankings import METRICS, PROTOCOLS, estimate_text, served_table
from ..pipeline_gram import TASK
from ..training.settings import PLACES
from .card_data import CARD, TRAINING_FILE, GramCardData
from .card_settings import CardSettings

TEMPLATE = "model_card_template.md"
# Where a setting is shown; those that are in none of the groups are the last one's.
GROUPS = {
    "Shape": ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate", "vocab_size"),
    "Input": (
        *("max_history", "max_passage_length", "user_prompt", "item_prompts", "id_in_item_prompt"),
        "passage_position",
    ),
    "Optimisation": (
        *("epochs", "budget", "first_round", "batch_size", "prefixes_per_user", "interaction_dropout", "optimizer"),
        *("learning_rate", "embedding_rate", "adam_epsilon", "weight_decay", "warmup_ratio", "max_grad_norm"),
        *("mixed_precision", "seed"),
    ),
    "Validation": ("validate_every", "validation_users", "validation_beams", "patience"),
    "Memory and speed": (
        *("micro_batch_size", "micro_batch_tokens", "prefixes_per_group", "gradient_checkpointing", "compile"),
    ),
    "Other": (),
}
_SIGNATURE = re.compile(r"<!-- written by gram card, ([0-9a-f]{16}) -->\s*$")


def write_model_card(folder: str | Path, settings: CardSettings | None = None, overwrite: bool = False) -> Path:
    """Write `README.md` into a model folder, anew from its files; gives the card's path.

    Args:
        folder: as of [`GramCardData`].
        settings: what is said by hand, and kept in `card.yaml` for the next card; by default what stands there.
        overwrite: replace a `README.md` that was written or changed by hand.

    Raises:
        FileExistsError: there is a `README.md` that was written or changed by hand.
        FileNotFoundError, ValueError: as of [`GramCardData`]; or an other licence has no name.
    """
    folder = Path(folder)
    path = folder / CARD
    if not overwrite and is_handmade(path):
        raise FileExistsError(
            f"{path}: was written or changed by hand; move that into `notes` of card.yaml and give --overwrite"
        )
    card = GramCardData(folder, settings)
    text = render(card)
    card.settings.save(folder)
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return path


def refresh_model_card(folder: str | Path, settings: CardSettings | None = None) -> None:
    """Write the card as [`write_model_card`] does, where the folder tells of its training and none is by hand."""
    folder = Path(folder)
    if (folder / TRAINING_FILE).is_file() and not is_handmade(folder / CARD):
        write_model_card(folder, settings)


def is_handmade(path: str | Path) -> bool:
    """Whether a file is there that is not as `write_model_card` left it."""
    path = Path(path)
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    signature = _SIGNATURE.search(text)
    return signature is None or signature[1] != _digest(text[: signature.start()])


def render(card: GramCardData) -> str:
    """The whole card, metadata and text."""
    metadata = card.metadata()
    body = _template().render(card=card)
    text = str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n\n"))
    return f"{text}<!-- written by gram card, {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {
        "plain": plain,
        "code": code,
        "thousands": lambda number: f"{number:,}",
        "duration": duration,
        "python": lambda value: json.dumps(value, ensure_ascii=False),
        "shell": shlex.quote,
    }
    environment.globals |= {"task": TASK, "protocols": PROTOCOLS, "groups": setting_groups, "table": metrics_table}
    environment.globals |= {"served": served_table}
    return environment.get_template(TEMPLATE)


def setting_groups(settings: dict[str, Any], config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by group, without those that name places of one machine; the shape is the model's own."""
    values = {name: value for name, value in settings.items() if name not in PLACES | {"backbone", "tokenizer"}}
    values |= {name: config[name] for name in GROUPS["Shape"]}
    groups = {group: {name: values.pop(name) for name in names if name in values} for group, names in GROUPS.items()}
    groups["Other"] |= {name: value for name, value in values.items() if not _is_path(value)}
    return {group: shown for group, shown in groups.items() if shown}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool({"/", "\\"} & set(value))


def metrics_table(models: dict[str, dict], protocol: str) -> str:
    """A Markdown table: a row per model, a column per metric, the interval in brackets; the best mean is bold."""
    best = {metric: max(by[protocol][metric]["mean"] for by in models.values()) for metric in METRICS}
    lines = [["", *METRICS]]
    for name, by_protocol in models.items():
        lines.append([plain(name), *(estimate_text(by_protocol[protocol][of], best[of]) for of in METRICS)])
    return "\n".join(markdown_table(lines))


def code(text: Any) -> str:
    """A text in one line as a code span, whatever backticks it holds."""
    text = _in_one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"
