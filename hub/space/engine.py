"""What the Space asks of a GRAM model: search its catalogue, recommend, explain. Nothing here knows of the page."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, AutoTokenizer

ITEM_ENCODINGS = "item_encodings"  # folder of the model's repository, where `gram encode` has made it
NUM_BEAMS = 50


@dataclass(frozen=True)
class Step:
    """A token of a lexical ID: its probability among the tokens that the catalogue allows there, and what is left."""

    token: str
    probability: float
    num_choices: int
    num_items_left: int


@dataclass(frozen=True)
class Recommendation:
    """A catalogue row, and why: the share of attention of the user prompt and of each item, newest first."""

    row: int
    score: float
    prompt_share: float
    item_shares: list[float]
    steps: list[Step]


@dataclass(frozen=True)
class Found:
    """Recommendations, the history of catalogue rows, oldest first, that they are for, and which one is looked at."""

    items: tuple[Recommendation, ...] = ()
    history: tuple[int, ...] = ()
    chosen: int = 0


class Engine:
    """A loaded model. Threads may share it.

    Attributes:
        name: of the model, as it was given.
        item_ids: every item's id, in the catalogue's order.
        titles: their titles; an item without one goes by its id.
        details: what else the catalogue says of them.
        max_history: items of a history that the model reads, the newest.
    """

    def __init__(self, name: str, model, tokenizer, item_cache):
        self.name, self._model, self._tokenizer, self._item_cache = name, model, tokenizer, item_cache
        self.max_history = tokenizer.max_history
        self.item_ids: list[str] = tokenizer.item_ids
        self.titles = [title or item for title, item in zip(tokenizer.titles, self.item_ids, strict=True)]
        texts = [text or "" for text in tokenizer.catalogue["text"].to_pylist()]
        self.details = [
            text.removeprefix(f"title: {title}").lstrip("; ") for text, title in zip(texts, self.titles, strict=True)
        ]
        self._folded_titles = [_fold(title) for title in self.titles]
        everything = zip(self.titles, self.item_ids, texts, strict=True)
        self._folded = [_fold("\n".join(parts)) for parts in everything]

    @classmethod
    def load(cls, name: str) -> Engine:
        """Load a model from a folder or the Hub, with its item encodings: the repository's, or made here and now."""
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        model = AutoModel.from_pretrained(name, trust_remote_code=True).eval().to(device)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
        if not hasattr(model, "explain"):
            raise ValueError(f"{name}: the model's code cannot explain; save the model again with a newer `gram`")
        folder = (
            Path(name) if Path(name).is_dir() else Path(snapshot_download(name, allow_patterns=f"{ITEM_ENCODINGS}/*"))
        )
        folder = folder / ITEM_ENCODINGS
        return cls(name, model, tokenizer, model.encode_items(tokenizer, folder if folder.is_dir() else None))

    def search(self, words: str, limit: int) -> tuple[list[int], int]:
        """Items that hold all the words, in any order and without regard to case and accents; all items for no words.

        Returns:
            At most `limit` catalogue rows, and how many there are. An item of that very id comes first, then titles
            that begin with the words, then titles that hold them, then items whose text does.
        """
        phrase = " ".join(_fold(words).split())
        wanted = phrase.split()
        found = [row for row, text in enumerate(self._folded) if all(word in text for word in wanted)]

        def rank(row: int) -> int:
            title = self._folded_titles[row]
            if _fold(self.item_ids[row]) == phrase:
                return 0
            return 1 if title.startswith(phrase) else 2 if all(word in title for word in wanted) else 3

        return sorted(found, key=rank)[:limit], len(found)

    def recommend(self, history: list[int], count: int) -> list[Recommendation]:
        """The `count` best items for a history of catalogue rows, oldest first; never one of the history."""
        histories = [[self.item_ids[row] for row in history]]
        inputs = self._tokenizer(histories=histories, item_prompts=False, return_tensors="pt").to(self._model.device)
        output = self._model.generate(
            **inputs,
            item_cache=self._item_cache,
            excluded_items=torch.tensor([history], device=self._model.device),
            num_beams=NUM_BEAMS,
            num_return_sequences=count,
            return_dict_in_generate=True,
        )
        why = self._model.explain(output.item_indices, **inputs, item_cache=self._item_cache)
        shares = why.attention_shares[0].tolist()
        return [
            Recommendation(row, score, shares[rank][0], shares[rank][1:], self._steps(why, rank))
            for rank, (row, score) in enumerate(
                zip(output.item_indices[0].tolist(), output.sequences_scores.tolist(), strict=True)
            )
            if row >= 0
        ]

    def _steps(self, why, rank: int) -> list[Step]:
        names = self._tokenizer.convert_ids_to_tokens(why.token_ids[0, rank].tolist())
        columns = (why.choice_probs, why.num_choices, why.num_items_left)
        steps = [Step(*step) for step in zip(names, *(column[0, rank].tolist() for column in columns), strict=True)]
        return [step for step in steps if step.num_items_left]


def _fold(text: str) -> str:
    """Text without case and accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
