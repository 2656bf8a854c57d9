"""What GRAM puts forward for many users: the items that beam search finds, and what it thinks of others.

Under the protocol `all_items` every item of the catalogue may be put forward, seen ones too (the GRAM paper's
protocol); under `unseen_items` what is in the user's history is masked. A GRAM whose training part held no repeats does
not expect any (`config.repeats`), as the SASRec, and puts the same forward under both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from ..collaborative.baselines import Recommender
from ..collaborative.neighbours import largest
from ..common.processes import Accelerator, gather_users
from ..item_cache_gram import ItemCache
from ..pipeline_gram import recommend_rows
from ..serving.user_batches import batches_of_users
from .rankings import PROTOCOLS

_USERS_AT_ONCE = 128  # whose scores of the whole catalogue are in memory together
_SPELT_AT_ONCE = 256  # items, over all users of a batch: what the attention over their passages takes is bounded by it


@dataclass(frozen=True, eq=False)
class Candidates:
    """Items for U users, with GRAM's scores."""

    items: np.ndarray  # (U, C) int64 catalogue rows, a user's all different; -1 for none
    scores: np.ndarray  # (U, C) float32, as `generate` gives them; -inf for none
    num_generated: int  # the first so many columns are beam search's, best first; behind them are other items

    @property
    def generated(self) -> Candidates:
        """Beam search's alone."""
        columns = slice(self.num_generated)
        return Candidates(self.items[:, columns], self.scores[:, columns], self.num_generated)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What became of the ranked lists of U users, under one protocol."""

    ranks: np.ndarray  # (U,) int64 place of every user's target, from 1; 0 where it was not found
    shown: np.ndarray  # (N,) int64 how many users have each item of the catalogue among their first ten

    @classmethod
    def of(cls, items: np.ndarray, targets: np.ndarray, num_items: int) -> Ranking:
        """Of the users' items (U, K), best first, -1 for none."""
        first = items[:, :10]
        return cls(target_ranks(items, targets), np.bincount(first[first >= 0], minlength=num_items))

    def of_all(self, num_users: int, accelerator: Accelerator) -> Ranking:
        """What all processes have found, each for its own share."""
        shown = accelerator.reduce(torch.from_numpy(self.shown).to(accelerator.device), reduction="sum")
        return Ranking(gather_users(self.ranks, num_users, accelerator), shown.cpu().numpy())


def gram_candidates(
    model,
    tokenizer,
    histories: Sequence[np.ndarray],
    protocols: Iterable[str] = tuple(PROTOCOLS),
    num_beams: int = 50,
    batch_size: int = 16,
    others: Mapping[str, np.ndarray] | None = None,
    progress: bool = True,
    item_cache: ItemCache | None = None,
) -> dict[str, Candidates]:
    """Search for every user's items under each protocol. Items are encoded once for all protocols.

    Needs no other process: where there are several, each calls it with its own users (see `own_share`).

    Args:
        model, tokenizer: with its item trie; left in the mode, training or not, that it was in.
        histories: U histories of catalogue rows, oldest first.
        protocols: of `PROTOCOLS`.
        num_beams: width of the search, and how many items it gives.
        batch_size: users in one search.
        others: for each protocol (U, E) further items, -1 for none. Those that beam search did not find get the score
            that it would have given them: they are spelt out.
        progress: show a bar with the time left.
        item_cache: encodings of the items; without it see `gram.serving.user_batches`.

    Returns:
        For each protocol the candidates, in `num_beams` columns, and E more where there are others.
    """
    histories, others = [np.asarray(history).tolist() for history in histories], others or {}
    found = {}
    for protocol in protocols:
        shape = (len(histories), num_beams + (others[protocol].shape[1] if protocol in others else 0))
        found[protocol] = Candidates(np.full(shape, -1), np.full(shape, -np.inf, dtype=np.float32), num_beams)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), tqdm(total=len(histories), desc="GRAM", unit="user", disable=not progress) as bar:
            for users, cache in batches_of_users(model, tokenizer, histories, batch_size, item_cache, progress):
                chosen = [histories[user] for user in users]
                best = {}  # under both protocols the same, where there are no repeats
                for protocol, candidates in found.items():
                    without = protocol == "unseen_items" or not model.config.repeats
                    if without not in best:
                        search = {"exclude_seen": without, "num_beams": num_beams, "item_cache": cache}
                        best[without] = recommend_rows(model, tokenizer, chosen, num_beams, **search)
                    items, scores = best[without]
                    columns = slice(items.shape[1])
                    candidates.items[users, columns], candidates.scores[users, columns] = items, scores
                if others:
                    inputs = tokenizer(rows=chosen, item_prompts=False, return_tensors="pt").to(model.device)
                    more = {protocol: rows[users] for protocol, rows in others.items()}
                    if not model.config.repeats:
                        more = {protocol: _unseen(rows, chosen) for protocol, rows in more.items()}
                    _add_others(model, inputs, users, found, more, cache)
                bar.update(len(users))
    finally:
        model.train(was_training)
    return found


def scored(recommender: Recommender, histories: Sequence[np.ndarray]) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some users at a time, with a recommender's scores of the whole catalogue for them, (B, N) float32."""
    for start in range(0, len(histories), _USERS_AT_ONCE):
        users = slice(start, start + _USERS_AT_ONCE)
        yield users, torch.as_tensor(recommender.score(histories[users])).float().cpu()


def best_items(recommender: Recommender, histories: Sequence[np.ndarray], k: int) -> dict[str, np.ndarray]:
    """For each protocol a recommender's best items (U, k), equally good ones by row; -1 where there are no more."""
    best = {protocol: np.full((len(histories), k), -1) for protocol in PROTOCOLS}
    for some, catalogue in scored(recommender, histories):
        for protocol, items in best.items():
            scores = catalogue
            if protocol == "unseen_items":
                scores = catalogue.clone()
                for row, history in zip(scores, histories[some], strict=True):
                    row[np.asarray(history, dtype=np.int64)] = -torch.inf
            found = largest(scores, k)
            items[some] = found.masked_fill(scores.gather(1, found) == -torch.inf, -1).numpy()
    return best


def target_ranks(items: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(U,) int64 place from 1 of each user's target among the ranked items (U, K); 0 where it is not there.

    Example:
        >>> target_ranks(np.array([[4, 2], [3, -1]]), targets=np.array([2, 0]))
        array([2, 0])
    """
    hit = items == np.asarray(targets)[:, None]  # (U, K)
    return np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 0)


def _add_others(model, inputs, users, found, others, item_cache) -> None:
    """Put the others behind what was generated. An item that several protocols ask for is spelt out once."""
    known = np.concatenate([found[protocol].generated.items[users] for protocol in found], axis=1)
    scores = np.concatenate([found[protocol].generated.scores[users] for protocol in found], axis=1)
    asked = np.sort(np.concatenate(list(others.values()), axis=1), axis=1)  # (B, E')
    asked[:, 1:][asked[:, 1:] == asked[:, :-1]] = -1
    asked = _not_among(asked, known)
    known = np.concatenate([known, asked], axis=1)
    scores = np.concatenate([scores, _spell_out(model, inputs, asked, item_cache)], axis=1)
    for protocol, rows in others.items():
        candidates = found[protocol]
        more = _not_among(rows, candidates.generated.items[users])  # (B, E)
        place = (more[:, :, None] == known[:, None]).argmax(axis=2)
        own = np.where(more < 0, -np.inf, np.take_along_axis(scores, place, axis=1))
        candidates.items[users, candidates.num_generated :] = np.where(np.isneginf(own), -1, more)
        candidates.scores[users, candidates.num_generated :] = own


def _unseen(rows: np.ndarray, histories: Sequence[Sequence[int]]) -> np.ndarray:
    """The rows (B, E), -1 in place of those in the users' histories."""
    return np.stack([np.where(np.isin(own, history), -1, own) for own, history in zip(rows, histories, strict=True)])


def _not_among(others: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The others (B, E), -1 in place of those that are among the items (B, K)."""
    return np.where((others[:, :, None] == items[:, None]).any(axis=2), -1, others)


def _spell_out(model, inputs, items: np.ndarray, item_cache) -> np.ndarray:
    """GRAM's scores (B, E) of given items, -1 for none; -inf for none and for what has no lexical ID."""
    trie = model.item_trie
    rows = torch.as_tensor(items, device=model.device)
    known = (rows >= 0) & (rows < trie.num_items)
    known &= trie.leaves[rows.clamp(0, trie.num_items - 1)] >= 0
    width = int(known.sum(dim=1).max())
    scores = torch.full(rows.shape, -torch.inf, device=model.device)
    if not width:
        return scores.cpu().numpy()
    places = known.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]  # known ones first
    wanted = rows.masked_fill(~known, -1).gather(1, places)  # (B, width)
    penalty = model.generation_config.length_penalty
    step, spelt = max(_SPELT_AT_ONCE // width, 1), []
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        own = {name: value[some] for name, value in inputs.items()}
        explained = model.explain(wanted[some], **own, item_cache=item_cache)
        length = (explained.num_items_left > 0).sum(dim=2).clamp(min=1)
        spelt.append(explained.token_log_probs.sum(dim=2) / length ** (1.0 if penalty is None else penalty))
    scores.scatter_(1, places, torch.cat(spelt).float().masked_fill(wanted < 0, -torch.inf))
    return scores.cpu().numpy()
