"""Distillation through the trie: what a teacher expects, as soft targets of the tokens of lexical IDs."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..collaborative.baselines import Recommender, TransitionGraph
from ..collaborative.fitting import is_fitted_on
from ..collaborative.sasrec import SASRec
from ..data import Interactions, RecommendationData, training_part
from ..translation import SASREC_FILE
from ..translation.embedding import embed_texts
from ..translation.settings import SASREC
from ..trie_gram import ItemTrie
from .settings import TrainingSettings

MANY_ITEMS = 50_000  # from here on only the teacher's best items count
BEST_ITEMS = 4096
LEAST_MASS = 1e-9  # of a subtree of which the teacher knows anything
EVENLY = 0.2  # share of what a graph expects that all items have alike, so that none is ruled out
KNOWN_BY = 20  # interactions of an item at which a graph's share is halfway between its least and all
_GOLDEN, _PLASTIC = 0.6180339887498949, 0.7548776662466927  # multiples of these lie evenly between whole numbers
_SCORES_AT_ONCE, _LEAST_ROWS = 1 << 19, 16  # so that scores stay in a processor's cache, or embeddings are read rarely


def teacher_of(settings: TrainingSettings, data: RecommendationData) -> SASRec | None:
    """The SASRec that a run learns from, if it does.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no SASRec, or one that was fitted on anything but the training part of these data.
    """
    if settings.distillation is None or not settings.distillation_weight:
        return None
    path = sasrec_file(settings) if settings.distillation == SASREC else Path(settings.distillation)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file, and distillation learns from a SASRec; translate with --similar-items sasrec and a "
            "--num-similar above 0, or give the file of one, fitted on the same training part, as --distillation FILE"
        )
    return sasrec_in(path, settings, data)


def sasrec_file(settings: TrainingSettings) -> Path:
    """Where the SASRec of a run is: in its translation, or apart, where a trained GRAM goes on with other data."""
    apart = Path(settings.output_dir) / "translation" / SASREC_FILE
    return apart if settings.init_from and apart.is_file() else settings.translation_folder / SASREC_FILE


def sasrec_in(path: Path, settings: TrainingSettings, data: RecommendationData) -> SASRec:
    """The SASRec in a file.

    Raises:
        ValueError: the file is no SASRec, or one that was fitted on anything but the training part of these data.
    """
    sasrec = SASRec.load(path)
    if not is_fitted_on(path, training_part(data), len(data.items)):
        raise ValueError(f"{path}: was not fitted on the training part of {settings.data}; translate these data anew")
    return sasrec


def distillation_of(
    settings: TrainingSettings, data: RecommendationData, trie: ItemTrie, device: torch.device | str = "cpu"
) -> Distillation | None:
    """What a run learns from beside its targets, if it does; see [`teacher_of`] for the errors."""
    teacher, training, graph = teacher_of(settings, data), training_part(data), None
    if teacher is None:
        return None
    if settings.distillation_graph:
        graph = TransitionGraph(training, embed_texts(data.items.texts))
    options = {name: getattr(settings, f"distillation_{name}") for name in ("weight", "temperature", "draws")}
    return Distillation(
        teacher, training, trie, **options, graph=graph, graph_share=settings.distillation_graph, device=device
    )


class Distillation:
    """Soft targets of training samples: at each token of the target's lexical ID, what the teacher expects there.

    The teacher's softmax over the catalogue, summed over the subtrees of a node's children, is a distribution over
    these. With the catalogue in the trie's order a subtree is a run of items, and its sum the difference of two entries
    of one cumulative sum. Where the teacher expects next to nothing below a node, the target stays as it is.

    Args:
        teacher: whatever can score the catalogue for histories; a SASRec reads every history once, when first asked.
        interactions: the training part.
        trie: of the whole catalogue.
        weight: the teacher's share of a soft target; the rest is the true token's.
        temperature: divides the logarithms of what is expected.
        draws: items that every sample gets as further targets, drawn from what the teacher expects; for these it
            alone counts.
        graph: a second teacher, counted in the same interactions; of each it says what it had said, had it not counted
            this user.
        graph_share: the graph's weight in the geometric mean of what the two expect of an item that many have had; the
            fewer have, the more the graph counts, which knows its text, and alone where nobody has.
        device: where the soft targets are computed.

    Example:
        >>> from gram.collaborative.baselines import Popularity
        >>> training = Interactions.from_sequences(["a", "b"], [[0, 1], [1, 2]])
        >>> trie = ItemTrie.from_sequences([[5, 8, 1], [5, 9, 1], [7, 1]])
        >>> distillation = Distillation(Popularity(training, 3), training, trie, weight=0.5)
        >>> soft = distillation(torch.tensor([1]), labels=torch.tensor([[5, 9, 1]]))["soft_targets"]
        >>> soft["tokens"][0, 0], soft["shares"][0, 0].round(decimals=2)  # of item 1, which starts with token 5
        (tensor([5, 7]), tensor([0.8900, 0.1100]))
    """

    def __init__(
        self,
        teacher: Recommender,
        interactions: Interactions,
        trie: ItemTrie,
        weight: float,
        temperature: float = 1.0,
        draws: int = 0,
        graph: TransitionGraph | None = None,
        graph_share: float = 0.0,
        device: torch.device | str = "cpu",
    ):
        self.teacher, self.temperature = teacher, temperature
        self.weight, self.draws, self.device = weight, draws, device
        self.trie = copy.deepcopy(trie).to(device)
        is_in = self.trie.leaves >= 0  # what was removed from the catalogue comes last, and is expected by nobody
        self.num_in = int(is_in.sum())
        starts = self.trie.starts[self.trie.leaves].masked_fill(~is_in, len(is_in))
        self.order = starts.argsort()  # (I,) items in the trie's order
        self.places = self.order.argsort()  # (I,) of the items in it
        self.graph, counts = graph, np.bincount(interactions.items, minlength=len(is_in))
        counts = torch.from_numpy(counts).to(device)[self.order]
        self.graph_shares = graph_share + (1 - graph_share) * KNOWN_BY / (KNOWN_BY + counts)  # (I,)
        self.interactions = interactions
        self.states = None  # (total, dim) of a SASRec, once they are asked for
        if isinstance(teacher, SASRec):
            self.embeddings = teacher.items.weight.detach().to(device)[self.order]  # (I, dim)

    def read(self, interactions: Interactions) -> None:
        """Take samples from these sequences from now on: those of the training part's users, or parts of them."""
        if interactions is not self.interactions:
            self.interactions, self.states = interactions, None

    @torch.no_grad()
    def __call__(self, samples: torch.Tensor, labels: torch.Tensor, epoch: int = 0) -> dict:
        """Targets and soft targets of samples, as `GramForConditionalGeneration.forward` takes them.

        Args:
            samples: (N,) places of targets in `interactions.items`, none of them a user's first.
            labels: (N, T) the targets' lexical IDs; samples that have -100 there have no drawn targets either.
            epoch: draws other items.

        Returns:
            `labels` (N * K, T), of each sample its target and then `draws` items; and `soft_targets` of `tokens`
            (N * K, T, F), the children of every node on the targets' paths, and their `shares`.
        """
        rows = max(_SCORES_AT_ONCE // len(self.order), _LEAST_ROWS)
        parts = [self._targets(some, epoch) for some in samples.split(rows)]
        widest = max(shares.shape[-1] for _, _, shares in parts)
        drawn, *soft = zip(*parts, strict=True)
        tokens, shares = (
            torch.cat([F.pad(part, (0, widest - part.shape[-1]), value=value) for part in of])
            for of, value in zip(soft, (-1, 0), strict=True)
        )
        drawn = torch.cat(drawn)
        drawn.masked_fill_((labels[:, :1] < 0).repeat_interleave(1 + self.draws, 0).to(drawn.device), -100)
        length = max(int((drawn >= 0).sum(-1).max()), 1)
        soft_targets = {"tokens": tokens[:, :length], "shares": shares[:, :length]}
        return {"labels": drawn[:, :length], "soft_targets": soft_targets}

    def _targets(self, samples: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Labels (n * K, D), and tokens and shares (n * K, D, F), of some samples (n,)."""
        trie, places = self.trie, None
        expected = self._expected(samples)
        if expected.shape[1] > MANY_ITEMS:
            places = expected.topk(BEST_ITEMS, sorted=False).indices.sort().values  # (n, best)
            expected = expected.gather(1, places)
        sums = expected.cumsum(-1, dtype=torch.float64)  # (n, I or best), in the trie's order
        own = torch.from_numpy(self.interactions.items[samples.numpy()].astype(np.int64)).to(self.device)
        targets = torch.cat([own[:, None], self._drawn(samples, sums, places, epoch)], dim=1)  # (n, K)
        entered = trie.paths(trie.leaves[targets.flatten()].long())  # (n * K, D)
        children, exists = trie.expand(F.pad(entered[:, :-1], (1, 0)))  # (n * K, D, F)

        def before(counts: torch.Tensor) -> torch.Tensor:
            """What the teacher expects of the first `counts` (n * K, D, F) items."""
            counts = counts.view(len(sums), -1)
            counts = counts if places is None else torch.searchsorted(places, counts)
            return sums.gather(1, (counts - 1).clamp(min=0)).masked_fill(counts == 0, 0).view_as(children)

        first = trie.starts[children]
        masses = (before(first + trie.sizes[children]) - before(first)).clamp(min=0).masked_fill(~exists, 0)
        total = masses.sum(-1, keepdim=True)
        weight = torch.ones_like(targets, dtype=torch.float64)
        weight[:, 0] = self.weight
        weight = weight.view(-1, 1, 1) * (total > LEAST_MASS)
        shares = weight * masses / total.clamp(min=LEAST_MASS) + (1 - weight) * (children == entered[..., None])
        tokens = trie.tokens.long()
        labels = tokens[entered].masked_fill(entered == 0, -100)
        return labels, tokens[children].masked_fill(~exists, -1), shares.float()

    def _drawn(
        self, samples: torch.Tensor, sums: torch.Tensor, places: torch.Tensor | None, epoch: int
    ) -> torch.Tensor:
        """Items (n, draws) that the teacher expects, each as often as it does."""
        # One of each equal part of what is expected, in the trie's order; where in it hangs on sample and epoch alone,
        # so that any number of processes draws the same, and a run that goes on as well.
        offset = (samples.double() * _GOLDEN + epoch * _PLASTIC).to(self.device) % 1
        share = (torch.arange(self.draws, device=self.device) + offset[:, None]) / max(self.draws, 1)
        row = torch.searchsorted(sums, share * sums[:, -1:]).clamp(max=sums.shape[1] - 1)
        return self.order[row if places is None else places.gather(1, row)]

    def _expected(self, samples: torch.Tensor) -> torch.Tensor:
        """(n, I) how likely the teacher holds each item, in the trie's order."""
        places, offsets = samples.numpy(), self.interactions.offsets
        users = np.searchsorted(offsets, places, side="right") - 1
        starts = offsets[users]
        histories = [self.interactions.items[start:place] for start, place in zip(starts, places, strict=True)]
        row = torch.from_numpy(np.repeat(np.arange(len(places)), places - starts)).to(self.device)
        had = row, self.places[torch.from_numpy(np.concatenate(histories).astype(np.int64)).to(self.device)]
        if not isinstance(self.teacher, SASRec):
            scores = torch.as_tensor(self.teacher.score(histories)).to(self.device)[:, self.order]
        else:
            if self.states is None:
                self.states = self.teacher.states(self.interactions)
            scores = self.states[samples - 1].to(self.device) @ self.embeddings.T
            scores[had] += self.teacher.repeat.to(self.device)  # once, however often an item is there
        if self.graph is not None:
            of_graph = self.graph.score_without(users, histories).to(self.device)[:, self.order]
            of_graph = F.normalize(of_graph, p=1, dim=-1).mul_(1 - EVENLY).add_(EVENLY / of_graph.shape[1]).log_()
            scores = scores.log_softmax(-1)
            of_graph[had] = scores[had]  # of what is had the graph knows nothing
            scores = scores.lerp(of_graph, self.graph_shares)
        expected = (scores / self.temperature).softmax(-1)
        expected[:, self.num_in :] = 0
        return expected
