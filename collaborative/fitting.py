"""Collaborative semantics: training the SASRec with a softmax over the catalogue, or over a sample of it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from tqdm.auto import tqdm

from ..common.provenance import Provenance, hash_of_interactions, read_provenance
from ..data.interactions import Interactions
from .sasrec import VECTORS, SASRec, SASRecSettings

logger = logging.getLogger(__name__)

WARM_UP = 0.05  # part of the training
ADAM_BETAS = (0.9, 0.98)  # of the SASRec authors
_REMEDY = "train it with a lower learning_rate"


def fit_sasrec(
    interactions: Interactions,
    num_items: int,
    settings: SASRecSettings | None = None,
    seed: int = 0,
    progress: bool = True,
    vectors: np.ndarray | None = None,
) -> SASRec:
    """Train a SASRec by cross-entropy over the catalogue, or over a sample of a large one.

    It is trained on the CPU wherever the rest runs: a GPU adds up gradients in an order of its own, and would give
    another catalogue every time.

    Every item but a user's first is a target. The learning rate falls to zero over a fixed number of epochs. Training
    never stops early, as nothing may judge it: what is learned here goes into the prompts of a model that is validated
    on the validation items.

    Args:
        interactions: the training part only; whoever calls has taken the validation and test items off.
        num_items: size of the catalogue, N.
        settings: shape and training.
        seed: of weights, order and dropout. The global random state is left as it was.
        progress: show a bar with the loss.
        vectors: (N, v) of the items' texts; looked at only where `settings.texts` is true.

    Returns:
        In evaluation mode. The same input gives the same weights on the same machine with as many threads.

    Raises:
        ValueError: the loss or the weights are no longer finite; or vectors are needed and not given.
    """
    settings = settings or SASRecSettings()
    vectors = _known(vectors, settings)
    targets_per_epoch = int(np.maximum(interactions.lengths - 1, 0).sum())
    if not targets_per_epoch:
        logger.warning("no user has two training items: SASRec learns nothing, and similar items are arbitrary")
    total = settings.epochs * targets_per_epoch
    shuffler = np.random.default_rng(seed)
    with (
        torch.random.fork_rng(devices=[]),
        tqdm(total=total, desc="SASRec", unit="item", disable=not progress, leave=None) as bar,
    ):
        torch.default_generator.manual_seed(seed)  # the CPU's alone, which is what is put back
        model = SASRec(num_items, settings).train()
        if vectors is not None:
            parametrize.register_parametrization(model.items, "weight", _WithTexts(vectors, settings.dim))
        repeats = interactions.num_repeats
        model.repeat.fill_(math.log((repeats + 1) / (targets_per_epoch - repeats + 1)))
        candidates = _Candidates(interactions, num_items, settings.negatives, shuffler)
        optimizer = torch.optim.AdamW(model.parameters(), betas=ADAM_BETAS, weight_decay=settings.weight_decay)
        done, mean_loss = 0, 0.0
        for _ in range(settings.epochs):
            for batch in _batches(interactions, settings, shuffler):
                real = batch.targets >= 0
                rows, place_of, rarity = candidates(batch.targets[real])
                targets, histories = place_of[batch.targets[real]], place_of[batch.histories()[real]]
                with parametrize.cached():  # the embeddings are made once for both
                    hidden = model(batch.items, batch.positions, batch.mask())[real]  # (n, dim)
                    some = model.items.weight[rows]  # (C, dim)
                    loss = _SoftmaxLoss.apply(hidden, some, targets, histories, model.repeat, rarity)
                optimizer.zero_grad()
                loss.backward()
                part = (done + len(hidden) / 2) / total  # the middle of the batch, so that no rate is 0
                rate = min(part / WARM_UP, (1 - part) / (1 - WARM_UP))
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate
                optimizer.step()
                of_batch = loss.item()
                if not math.isfinite(of_batch):
                    raise ValueError(f"SASRec: the loss is {of_batch} after {done:,} items; {_REMEDY}")
                mean_loss = 0.99 * mean_loss + 0.01 * of_batch if mean_loss else of_batch
                bar.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
                bar.update(len(hidden))
                done += len(hidden)
    if vectors is not None:
        parametrize.remove_parametrizations(model.items, "weight")
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise ValueError(f"SASRec: after its last step some weights are not finite; {_REMEDY}")
    return model.eval()


class _Batch:
    """Windows of users' sequences, several to a row; each array is (rows, length) long."""

    def __init__(self, packed: list[list[np.ndarray]], length: int):
        self.items, self.positions, self.segments = torch.zeros(3, len(packed), length, dtype=torch.long)
        self.targets = torch.full((len(packed), length), -1)  # -1: none
        for row, windows in enumerate(packed):
            start = 0
            for number, window in enumerate(windows, start=1):
                items = torch.from_numpy(window.astype(np.int64))
                place = slice(start, start + len(items) - 1)
                self.items[row, place] = items[:-1]
                self.targets[row, place] = items[1:]
                self.positions[row, place] = torch.arange(len(items) - 1)
                self.segments[row, place] = number  # of the window in its row; 0: padding
                start = place.stop

    def mask(self) -> Tensor:
        """(rows, 1, L, L) bool: a place sees itself and what is before it in the same window."""
        place = torch.arange(self.segments.shape[1])
        return ((self.segments[:, :, None] == self.segments[:, None]) & (place[:, None] >= place))[:, None]

    def histories(self) -> Tensor:
        """(rows, L, L) the items that each place sees; -1: none."""
        return self.items[:, None].where(self.mask()[:, 0], -1)


def _batches(interactions: Interactions, settings: SASRecSettings, shuffler: np.random.Generator) -> Iterator[_Batch]:
    """All windows once, in random order, packed so that hardly any place is padding."""
    length, rows = settings.max_length, max(settings.batch_items // settings.max_length, 1)
    packed: list[list[np.ndarray]] = []
    room = 0
    for window in _windows(interactions, length, shuffler):
        if len(window) - 1 > room:
            if len(packed) == rows:
                yield _Batch(packed, length)
                packed = []
            packed.append([])
            room = length
        packed[-1].append(window)
        room -= len(window) - 1
    if packed:
        yield _Batch(packed, length)


def _windows(interactions: Interactions, length: int, shuffler: np.random.Generator) -> Iterator[np.ndarray]:
    """Every user's sequence in pieces of at most `length + 1` items that share an end, so that no target is lost."""
    for user in shuffler.permutation(len(interactions)):
        items = interactions[user]
        for start in range(0, len(items) - 1, length):
            yield items[start : start + length + 1]


class _WithTexts(nn.Module):
    """Item embeddings (N, dim) with projections of text vectors (N, v) added."""

    def __init__(self, vectors: np.ndarray, dim: int):
        super().__init__()
        centred = torch.from_numpy(vectors - vectors.mean(axis=0))
        self.register_buffer("vectors", centred / centred.std().clamp_min(1e-9))
        self.projection = nn.Linear(vectors.shape[1], dim, bias=False)
        nn.init.normal_(self.projection.weight, std=0.02 / vectors.shape[1] ** 0.5)  # as large as the embeddings

    def forward(self, embeddings: Tensor) -> Tensor:
        return embeddings + self.projection(self.vectors)


class _Candidates:
    """The items of a batch's softmax: its targets, and `drawn` of the catalogue at random, or all of a smaller one."""

    def __init__(self, interactions: Interactions, num_items: int, drawn: int, shuffler: np.random.Generator):
        self.num_items, self.drawn, self.shuffler = num_items, min(drawn, num_items), shuffler
        targets = np.delete(interactions.items, interactions.offsets[:-1][interactions.lengths > 0])
        self.popularity = np.bincount(targets, minlength=num_items) / max(len(targets), 1)

    def __call__(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the catalogue (C,); the place of each item in them (N + 1,), -1: none; what makes up for the rest.

        That is (C,) the logarithm of one over the chance to be here. With it added to the others' scores, the sum of
        the softmax is on average that over the catalogue.
        """
        rows = np.union1d(self.shuffler.choice(self.num_items, self.drawn, replace=False), targets.numpy())
        missed = (1 - self.drawn / self.num_items) * (1 - self.popularity[rows]) ** len(targets)
        place_of = torch.full((self.num_items + 1,), -1)  # the last is that of -1, no item
        place_of[rows] = torch.arange(len(rows))
        return torch.from_numpy(rows), place_of, torch.from_numpy(-np.log1p(-missed)).float()


class _SoftmaxLoss(torch.autograd.Function):
    """Mean of the cross-entropy of `hidden @ items.T` with what is added to it, some rows at a time.

    The gradient is taken along with the loss, so that the (rows, C) matrices are small enough for the processor's
    cache and are written over by the next rows.
    """

    ROWS = 128

    @staticmethod
    def forward(
        ctx, hidden: Tensor, items: Tensor, targets: Tensor, histories: Tensor, repeat: Tensor, rarity: Tensor
    ) -> Tensor:
        """Loss of hidden (n, d) against targets (n,), rows of items (C, d).

        The scores of items in histories (n, L), where -1 is none, are raised by repeat, those of all but the target by
        rarity (C,).
        """
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        logits, softmax = hidden.new_empty(2, _SoftmaxLoss.ROWS, len(items))
        loss = hidden.new_zeros(())
        for start in range(0, len(hidden), _SoftmaxLoss.ROWS):
            some = slice(start, start + _SoftmaxLoss.ROWS)
            target = targets[some, None]
            scores = torch.mm(hidden[some], items.T, out=logits[: len(target)])
            row, place = (histories[some] >= 0).nonzero(as_tuple=True)
            scores[row, histories[some][row, place]] += repeat  # once, however often it is there
            scores.add_(rarity).scatter_add_(1, target, -rarity[target])
            probability = torch.softmax(scores, dim=1, out=softmax[: len(target)])  # (rows, C)
            of_target = probability.gather(1, target)
            loss -= of_target.clamp_min(1e-30).log().sum()
            probability.scatter_(1, target, of_target - 1)  # now the gradient of the logits
            torch.mm(probability, items, out=grad_hidden[some])
            grad_items.addmm_(probability.T, hidden[some])
        ctx.save_for_backward(grad_hidden / len(hidden), grad_items / len(hidden))
        return loss / len(hidden)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """The stored gradients, scaled."""
        grad_hidden, grad_items = ctx.saved_tensors
        return grad * grad_hidden, grad * grad_items, None, None, None, None


def sasrec_provenance(
    interactions: Interactions, num_items: int, settings: SASRecSettings, seed: int, vectors: np.ndarray | None = None
) -> Provenance:
    """Everything that decides what `fit_sasrec` learns; `texts` is told by whether item vectors are an input."""
    inputs = {"training interactions": hash_of_interactions(interactions)}
    if (known := _known(vectors, settings)) is not None:
        inputs[VECTORS] = hashlib.sha256(np.ascontiguousarray(known)).hexdigest()
    own = {name: value for name, value in asdict(settings).items() if name != "texts"}
    return Provenance("sasrec", inputs, {"num_items": num_items, "sasrec": own, "seed": seed})


def _known(vectors: np.ndarray | None, settings: SASRecSettings) -> np.ndarray | None:
    """The vectors that a SASRec knows: none where its settings say so."""
    if settings.texts and vectors is None:
        raise ValueError("texts is true: this SASRec knows the items' texts; give it their vectors")
    return vectors if settings.texts else None


def is_fitted_on(path: str | Path, interactions: Interactions, num_items: int) -> bool:
    """Whether a file holds a SASRec of these training interactions and so many items, whatever its settings."""
    of = read_provenance(path)
    training, items = of.get("inputs", {}).get("training interactions"), of.get("settings", {}).get("num_items")
    return items == num_items and training == hash_of_interactions(interactions)


def fit_or_load(
    path: str | Path | None,
    interactions: Interactions,
    num_items: int,
    settings: SASRecSettings | None = None,
    seed: int = 0,
    progress: bool = True,
    vectors: np.ndarray | None = None,
) -> SASRec:
    """The SASRec in the file if it was trained on exactly this; otherwise one that is trained now and saved there."""
    settings = settings or SASRecSettings()
    provenance = sasrec_provenance(interactions, num_items, settings, seed, vectors)
    if path is not None and read_provenance(path).get("key") == provenance.key:
        return SASRec.load(path)
    model = fit_sasrec(interactions, num_items, settings, seed, progress, vectors)
    if path is not None:
        model.save(path, provenance)
    return model
