"""What GRAM's decoder attends to: the passages of all users of a batch, each of them held once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F


@dataclass(frozen=True)
class FusedPassages:
    """What the decoder attends to: the distinct passages of a batch, each encoded once, and each user's view of them.

    Attributes:
        states (T, d): encoder states of real tokens, passage after passage, without passage position.
        index (B, M): row of `states` of every token that a user attends to; 0 at padding.
        place (B, M): position of the token's passage; None where that is not known.
        mask (B, M): False at padding.
        is_placed: whether `states` have their passage's position already.
    """

    states: torch.Tensor
    index: torch.Tensor
    place: torch.Tensor | None
    mask: torch.Tensor
    is_placed: bool

    @classmethod
    def of(
        cls, states: torch.Tensor, lengths: torch.Tensor, passages: torch.Tensor, positions: torch.Tensor
    ) -> FusedPassages:
        """Lay out users' passages.

        Args:
            states (T, d): the distinct passages, laid end to end.
            lengths (U,): tokens of each.
            passages (B, P): which of them each user has, in the order of their positions; -1 for none.
            positions (P', d): weights of the passage position embedding.
        """
        counts = lengths[passages.clamp(min=0)].masked_fill(passages < 0, 0)  # (B, P)
        ends = counts.cumsum(1)
        is_placed = int(ends[:, -1].sum()) == len(states)
        if is_placed:  # nobody shares a passage: position may be added here and now
            user, place = (passages >= 0).nonzero(as_tuple=True)
            of_passage = torch.empty_like(lengths).index_copy(0, passages[user, place], place)
            of_token = of_passage.repeat_interleave(lengths)  # (T,)
            states = states + positions[of_token]
            if len(passages) == 1:  # and of one user's passages the order does not matter
                index = torch.arange(len(states), device=states.device)[None]
                return cls(states, index, of_token[None], torch.ones_like(index, dtype=torch.bool), True)
        token = torch.arange(int(ends[:, -1].max()), device=states.device).expand(len(passages), -1).contiguous()
        mask = token < ends[:, -1:]  # (B, M)
        place = torch.searchsorted(ends, token, right=True).clamp(max=passages.shape[1] - 1)
        starts = lengths.cumsum(0) - lengths
        offset = starts[passages.clamp(min=0)] - ends + counts  # (B, P), of a passage's row from its place in M
        index = (token + offset.gather(1, place)).masked_fill(~mask, 0)
        return cls(states, index, place, mask, is_placed)

    @classmethod
    def of_encoder_outputs(cls, states: torch.Tensor, mask: torch.Tensor) -> FusedPassages:
        """Take states (B, M, d) that have their positions, and their mask (B, M); padding is left out."""
        mask = mask.bool()
        order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, : int(mask.sum(dim=1).max())]
        index = order + torch.arange(len(mask), device=mask.device)[:, None] * mask.shape[1]
        return cls(states.flatten(0, 1), index, None, mask.take_along_dim(order, dim=1), True)

    def padded(self, multiple: int) -> FusedPassages:
        """The same with M rounded up, so that batches of many lengths have few shapes."""
        more = -self.index.shape[1] % multiple
        index, mask = F.pad(self.index, (0, more)), F.pad(self.mask, (0, more))
        place = None if self.place is None else F.pad(self.place, (0, more))
        return FusedPassages(self.states, index, place, mask, self.is_placed)

    def by_user(self, positions: torch.Tensor) -> torch.Tensor:
        """States (B, M, d) of all that each user attends to, their passages' positions (P, d) added."""
        states = F.embedding(self.index, self.states)
        return states if self.is_placed else states + F.embedding(self.place, positions)

    def of_user(self, user: int) -> FusedPassages:
        """What one user attends to, without the rest of the batch."""
        mask = self.mask[user]
        index = torch.arange(int(mask.sum()), device=mask.device)[None]
        place = None if self.place is None else self.place[user, mask][None]
        states = self.states[self.index[user, mask]]
        return FusedPassages(states, index, place, torch.ones_like(index, dtype=torch.bool), self.is_placed)


__all__ = ["FusedPassages"]
