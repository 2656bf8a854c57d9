"""SASRec, the collaborative filter: a causal transformer over a user's items.

Source: Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..common.provenance import Provenance, read_provenance, write_artefact
from ..common.settings import Settings, within
from ..data.interactions import Interactions

VECTORS = "item vectors"  # among a SASRec's inputs where it knows the texts
_PLACES_AT_ONCE = 1 << 14  # of users' histories, where the states of all are taken


@dataclass(frozen=True)
class SASRecSettings(Settings):
    """Shape and training of a SASRec. The defaults were chosen on the validation items of Beauty and MovieLens-100k.

    Attributes:
        dim: of the item embeddings and of the hidden states.
        num_layers: transformer blocks.
        num_heads: attention heads; they divide `dim`.
        max_length: how many of a user's latest items are read.
        dropout: on the embeddings, on the attention weights and on what every sub-layer adds.
        epochs: passes over the training part.
        batch_items: how many items a batch has room for; at least one row of `max_length`.
        learning_rate: the peak, reached after the warm-up.
        weight_decay: of the weights, apart from the gradient (AdamW).
        negatives: items that are drawn for each batch, beside its targets, to be told from them; a catalogue of no
            more items is taken whole.
        texts: whether an item's embedding is a projection of its text's vector and what is learned of the item alone,
            so that one with few interactions has a place too.
    """

    dim: int = within(64, least=1)
    num_layers: int = within(2, least=1)
    num_heads: int = within(2, least=1)
    max_length: int = within(50, least=1)
    dropout: float = within(0.5, least=0, below=1)
    epochs: int = within(20, least=1)
    batch_items: int = within(1000, least=1)
    learning_rate: float = within(3e-3, above=0)
    weight_decay: float = within(0.0, least=0)
    negatives: int = within(1024, least=1)
    texts: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}; it must divide dim, {self.dim}")


class _Block(nn.Module):
    """Self-attention and feed-forward, each with a residual connection and a layer norm after it."""

    def __init__(self, settings: SASRecSettings):
        super().__init__()
        dim = settings.dim
        self.num_heads, self.dropout = settings.num_heads, settings.dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = hidden.shape
        heads = self.query_key_value(hidden).view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, heads, L, dim / heads)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        attended = self.output(attended.transpose(1, 2).reshape(batch, length, dim))
        hidden = self.attention_norm(hidden + F.dropout(attended, self.dropout, self.training))
        return self.feed_forward_norm(hidden + F.dropout(self.feed_forward(hidden), self.dropout, self.training))


class SASRec(nn.Module):
    """Scores every item of a catalogue of N as the next one of a user.

    Input and output share the item embeddings, whose cosines say which items are alike to the same users. Embeddings
    so shared take the items of a history for likely ones; `repeat`, the log odds in training that the next item is one
    of these, is added to their scores.
    """

    def __init__(self, num_items: int, settings: SASRecSettings | None = None):
        super().__init__()
        settings = settings or SASRecSettings()
        self.num_items, self.settings = num_items, settings
        self.items = nn.Embedding(num_items, settings.dim)
        self.positions = nn.Embedding(settings.max_length, settings.dim)
        self.register_buffer("repeat", torch.zeros(()))
        self.norm = nn.LayerNorm(settings.dim)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.num_layers))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, items: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """What is known of the user after each item, (B, L, dim): its products with the item embeddings are the scores.

        Args:
            items: (B, L) long rows of the catalogue.
            positions: (B, L) long, 0 for the first item that is read of a user.
            mask: bool, True where place i may look at place j, broadcast to (B, heads, L, L).
        """
        hidden = self.norm(self.items(items) + self.positions(positions))
        hidden = F.dropout(hidden, self.settings.dropout, self.training)
        for block in self.blocks:
            hidden = block(hidden, mask)
        return hidden

    @torch.no_grad()
    def score(self, histories: Sequence[np.ndarray]) -> Tensor:
        """How well every item of the catalogue would follow each of B histories, of catalogue rows, oldest first.

        Gives (B, N) float32, higher is better.

        Raises:
            ValueError: an empty history.
        """
        if not all(len(history) for history in histories):
            raise ValueError("a history is empty; SASRec needs at least one item")
        recent = [torch.as_tensor(np.asarray(history[-self.settings.max_length :], np.int64)) for history in histories]
        last = torch.tensor([len(items) - 1 for items in recent])
        hidden = self._read(nn.utils.rnn.pad_sequence(recent, batch_first=True))  # padded behind the last item
        scores = hidden[torch.arange(len(recent)), last] @ self.items.weight.T
        for of_user, history in zip(scores, histories, strict=True):
            of_user[np.unique(history)] += self.repeat
        return scores

    @torch.no_grad()
    def states(self, interactions: Interactions) -> Tensor:
        """What is known of every user after each item; the products with the item embeddings are the scores.

        Gives (total, dim) float32, in the order of `interactions.items`: what [`score`] knows of the histories that end
        there, `repeat` aside. Beyond `max_length` items windows overlap by half, so that at least as many are read.
        """
        length, windows = self.settings.max_length, []
        for start, end in pairwise(interactions.offsets.tolist()):
            new = start
            while new < end:
                last = min(start + length, end)
                windows.append((start, new, last))
                start, new = last - length // 2, last
        windows.sort(key=lambda window: window[0] - window[2])  # the longest first, so that little is padded
        states = torch.zeros(len(interactions.items), self.settings.dim)
        rows = max(_PLACES_AT_ONCE // length, 1)
        for some in range(0, len(windows), rows):
            start, new, last = np.array(windows[some : some + rows]).T[..., None]  # each (B, 1)
            places = start + np.arange((last - start).max())  # (B, L)
            items = interactions.items[np.minimum(places, last - 1)].astype(np.int64)
            is_new = (places >= new) & (places < last)
            states[places[is_new]] = self._read(torch.from_numpy(items))[is_new]
        return states

    def _read(self, items: Tensor) -> Tensor:
        """Hidden states (B, L, dim) of items (B, L), without dropout; each sees itself and those before it."""
        place, was_training = torch.arange(items.shape[1]), self.training
        self.eval()
        hidden = self(items, place.expand_as(items), place[:, None] >= place)
        self.train(was_training)
        return hidden

    def save(self, path: str | Path, provenance: Provenance) -> None:
        """Write the weights, and in the file's head the settings and what they were trained on, as safetensors."""
        weights = {name: weight.numpy(force=True) for name, weight in self.state_dict().items()}
        write_artefact(Path(path), weights, provenance)

    @classmethod
    def load(cls, path: str | Path) -> SASRec:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is no SASRec.
        """
        try:
            weights, made = load_file(path), read_provenance(path)
            settings = SASRecSettings(**made["settings"]["sasrec"], texts=VECTORS in made["inputs"])
            model = cls(made["settings"]["num_items"], settings)
            model.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not a SASRec ({reason}); train it again") from None
        return model.eval()
