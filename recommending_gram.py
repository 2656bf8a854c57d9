"""Asking a model for items: the checks and the search that every way to recommend shares."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

from .arguments_gram import whole_number
from .item_cache_gram import ItemCache
from .trie_gram import ItemTrie


def check_catalogue(model, tokenizer, name: str) -> None:
    """Raise ValueError, naming `name`, where the model has no item trie, or does not fit the tokenizer."""
    again = "call `set_item_trie` and save model and tokenizer again"
    trie = [] if model.item_trie is None else [buffer.cpu() for buffer in model.item_trie.buffers()]
    rows = (model.item_trie.leaves >= 0).nonzero().flatten().tolist() if trie else []
    if not rows or model.item_trie.num_items > len(tokenizer.item_ids):
        num_rows = model.item_trie.num_items if rows else 0
        raise ValueError(
            f"{name}: the model's item trie has {num_rows} items, the catalogue {len(tokenizer.item_ids)}; {again}"
        )
    expected = ItemTrie.from_sequences([tokenizer.sequences[row] for row in rows], rows)
    if not all(map(torch.equal, trie, expected.buffers())):
        raise ValueError(f"{name}: the model's item trie is not of the lexical IDs of the catalogue; {again}")
    ours, theirs = (tokenizer.max_history, len(tokenizer)), (model.config.max_history, model.config.vocab_size)
    if any(map(operator.gt, ours, theirs)) or tokenizer.pad_token_id != model.config.pad_token_id:
        raise ValueError(
            f"{name}: a tokenizer of max_history and tokens {ours}, pad token {tokenizer.pad_token_id}, for a model of "
            f"{theirs}, {model.config.pad_token_id}; load the one that was saved with the model"
        )


def check_history(tokenizer, history: Sequence[str], place: str = "") -> None:
    """Raise ValueError, led in by `place`, where a history is empty, no list of strings, or names an unknown item."""
    try:
        tokenizer.history_rows(history)
    except ValueError as error:
        raise ValueError(f"{place}{error}") from None


def check_search(exclude_seen: bool = True, exact: bool = False, **numbers: int) -> None:
    """Raise ValueError where a number is not whole or below 1, or a switch is neither True nor False."""
    for name, value in numbers.items():
        whole_number(name, value)
    for name, value in (("exclude_seen", exclude_seen), ("exact", exact)):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is {value!r}; it must be True or False")


def search(
    model,
    tokenizer,
    histories: Sequence[Sequence[str]],
    top_k: int = 10,
    exclude_seen: bool = True,
    num_beams: int = 50,
    item_cache: ItemCache | None = None,
    score_mode: str = "vocabulary",
    exact: bool = False,
) -> list[list[tuple[int, float]]]:
    """The next items of a batch of users, all searched for at once.

    Args:
        model: a [`GramForConditionalGeneration`] with its item trie, in evaluation mode.
        tokenizer: its [`GramTokenizer`].
        histories: item ids of B users, oldest first; checked already, see [`check_history`].
        top_k: items per user.
        exclude_seen: leave out every item of the user's whole history.
        num_beams: width of the search; at least `top_k` are taken.
        item_cache: encodings of the histories' items; without it they are encoded.
        score_mode: see [`GramForConditionalGeneration.generate`].
        exact: likewise.

    Returns:
        For each user at most `top_k` pairs of catalogue row and score, best first: fewer where there are no more items.
    """
    # As many beams as items rank the whole catalogue: whatever is asked for beyond that only takes memory.
    top_k = min(top_k, model.item_trie.num_items)
    num_beams = max(top_k, min(num_beams, model.item_trie.num_items))
    seen = [[tokenizer.item_rows[item] for item in history] for history in histories]
    output = model.generate(
        **tokenizer(histories=histories, item_prompts=item_cache is None, return_tensors="pt").to(model.device),
        excluded_items=seen if exclude_seen else None,
        item_cache=item_cache,
        num_beams=num_beams,
        num_return_sequences=top_k,
        score_mode=score_mode,
        exact=exact,
        return_dict_in_generate=True,
    )
    scores = output.sequences_scores.view(-1, top_k).tolist()
    return [
        [(row, score) for row, score in zip(*user, strict=True) if row >= 0]
        for user in zip(output.item_indices.tolist(), scores, strict=True)
    ]


__all__ = ["check_catalogue", "check_history", "check_search", "search"]
