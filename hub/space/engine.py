"""What the Space asks of a GRAM model: search its catalogue, recommend, explain. Nothing here knows of the page."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
from huggingface_hub import snapshot_download
from transformers import pipeline

ITEM_ENCODINGS = "item_encodings"  # folder of the model's repository, where `gram encode` has made it
EXAMPLE_LENGTH = 3


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
        example: rows of a history to begin with, oldest first; see `_example`.
    """

    def __init__(self, name: str, recommend):
        self.name, self._pipeline = name, recommend
        tokenizer = recommend.tokenizer
        self.max_history, self.item_ids = tokenizer.max_history, tokenizer.item_ids
        self.titles = [title or item for title, item in zip(tokenizer.titles, self.item_ids, strict=True)]
        texts = [text or "" for text in tokenizer.catalogue["text"].to_pylist()]
        self.details = [
            text.removeprefix(f"title: {title}").lstrip("; ") for text, title in zip(texts, self.titles, strict=True)
        ]
        self._folded_titles = [_fold(title) for title in self.titles]
        everything = zip(self.titles, self.item_ids, texts, strict=True)
        self._folded = [_fold("\n".join(parts)) for parts in everything]
        self.example = self._example()

    @classmethod
    def load(cls, name: str) -> Engine:
        """Load a model from a folder or the Hub, with its item encodings: the repository's, or made here and now."""
        recommend = pipeline("generative-recommendation", model=name, trust_remote_code=True, item_cache=False)
        folder = name if Path(name).is_dir() else snapshot_download(name, allow_patterns=f"{ITEM_ENCODINGS}/*")
        folder = Path(folder, ITEM_ENCODINGS) if Path(folder, ITEM_ENCODINGS).is_dir() else None
        recommend.item_cache = recommend.model.encode_items(recommend.tokenizer, folder)
        return cls(name, recommend)

    def _example(self) -> list[int]:
        """The item that most others name as similar, which is well known, after those most similar to it.

        So it is nobody's own history, and the same at every start. Items without a title, and those that are
        recommended no more, are taken only where there are not enough of others.
        """
        tokenizer, leaves = self._pipeline.tokenizer, self._pipeline.model.item_trie.leaves.tolist()
        similar = tokenizer.catalogue["similar_items"]
        named = Counter(tokenizer.item_rows[item] for item in pc.list_flatten(similar).to_pylist())

        def is_shown(row: int) -> bool:
            return bool(tokenizer.titles[row]) and leaves[row] >= 0

        first, *others = sorted(range(len(self.item_ids)), key=lambda row: (not is_shown(row), -named[row], row))
        nearest = [row for row in map(tokenizer.item_rows.get, similar[first].as_py()) if is_shown(row)]
        return list(dict.fromkeys([first, *nearest, *others]))[:EXAMPLE_LENGTH][::-1]

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
        model, tokenizer, cache = self._pipeline.model, self._pipeline.tokenizer, self._pipeline.item_cache
        rows, scores = self._pipeline.recommend_rows([history], top_k=count)
        inputs = tokenizer(rows=[history], item_prompts=False, return_tensors="pt").to(model.device)
        why = model.explain(rows, **inputs, item_cache=cache)
        shares = why.attention_shares[0].tolist()
        return [
            Recommendation(row, score, shares[rank][0], shares[rank][1:], self._steps(why, rank))
            for rank, (row, score) in enumerate(zip(rows[0].tolist(), scores[0].tolist(), strict=True))
            if row >= 0
        ]

    def _steps(self, why, rank: int) -> list[Step]:
        names = self._pipeline.tokenizer.convert_ids_to_tokens(why.token_ids[0, rank].tolist())
        columns = (why.choice_probs, why.num_choices, why.num_items_left)
        steps = [Step(*step) for step in zip(names, *(column[0, rank].tolist() for column in columns), strict=True)]
        return [step for step in steps if step.num_items_left]


def _fold(text: str) -> str:
    """Text without case and accents."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
