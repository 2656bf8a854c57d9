"""GRAM's `generate` and `explain`: from passages, or a cache of them, to items of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.generation import GenerationConfig
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .arguments_gram import (
    catalogue_rows,
    check_trie,
    check_users,
    read_encoded,
    read_passages,
    search_options,
)
from .configuration_gram import SCORE_MODES
from .decoding_gram import SCORES, FusedPassages, PrefixDecoder, decoder_inputs, run_blocks
from .encoding_gram import encode_packed
from .generation_gram import beam_search, exact_search
from .item_cache_gram import ItemCache
from .trie_gram import ItemTrie

_EXACT_SLOTS = 1024  # prefixes that exact search has room for at first


@dataclass
class GramGenerateOutput(GenerateBeamEncoderDecoderOutput):
    """Beam search's output, and the items themselves.

    Args:
        item_indices (`torch.LongTensor` of shape `(batch_size, num_return_sequences)`):
            Catalogue rows of the recommended items, best first; -1 where there are fewer items than asked for.
        num_scored_nodes (`torch.LongTensor` of shape `(batch_size,)`):
            Prefixes that went through the decoder; of exact search only.
    """

    item_indices: torch.LongTensor | None = None
    num_scored_nodes: torch.LongTensor | None = None


class GramSearchMixin:
    """Search of a [`GramForConditionalGeneration`]."""

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        item_trie: ItemTrie | None = None,
        excluded_items: torch.LongTensor | None = None,
        allowed_items: torch.LongTensor | Sequence[int] | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        history: torch.LongTensor | None = None,
        item_cache: ItemCache | None = None,
        score_mode: str | None = None,
        exact: bool = False,
        **kwargs,
    ) -> GramGenerateOutput | torch.LongTensor:
        r"""Recommend items: beam search over the trie of lexical IDs.

        An item is returned at most once per user, and nothing is returned that is not an item. Beams share their
        user's cross-attention keys and values. No state of the model changes, so threads may share it.

        Args:
            input_ids, attention_mask (B, P, L): the users' passages.
            generation_config: `num_beams`, `num_return_sequences`, `length_penalty` and `return_dict_in_generate` are
                heeded, also as keyword arguments; exact search has no beams. `cache_implementation="static"` gives
                every step of beam search one shape and compiles it as `compile_config` says: for GPUs. The trie
                bounds the length. What would have no effect is refused: see `arguments_gram.py`.
            item_trie: the items to choose from, in place of the model's own trie.
            excluded_items (B, E): catalogue rows that a user must not get, padded with -1; or a list for each user.
            allowed_items (n,): catalogue rows of the only items that any of these users may get. The beams go to these
                alone, and scores are as without it. What the search needs to know of a set is kept for the next time.
            encoder_outputs: what [`encode`] returned for these passages, in place of `input_ids`.
            history (B, S): catalogue rows of the items that the model reads, newest first, padded with -1, in place of
                their prompts: `input_ids` are then the user prompts alone, (B, 1, L). Needs `item_cache`. This is what
                `tokenizer(histories=..., item_prompts=False)` gives.
            item_cache: encodings of the items, see [`encode_items`].
            score_mode: `"vocabulary"`: a token's log-probability is over the whole vocabulary. `"trie"`: over the
                tokens that the trie allows; cheaper, and another ranking. By default as the model was trained,
                `config.score_mode`.
            exact: search until no other item can be among the best K, user by user, in place of beam search.
            kwargs: fields of a GenerationConfig, which come before those of `generation_config`, and these before those
                of the model's own. `labels` and `synced_gpus`, which trainers hand on, mean nothing.

        Returns:
            Sequences (B * K, 1 + T), K = `num_return_sequences`, each the start token, a lexical ID, its end token and
            padding; or a [`GramGenerateOutput`] with these, `sequences_scores` (B * K,) and `item_indices` (B, K).
            A sequence's score is the sum of its tokens' log-probabilities, divided by its length, end token included,
            to the power of `length_penalty`. Where a user has fewer than K items to choose from, the rest is padding
            with score -inf. Exact search also gives `num_scored_nodes` (B,).

        Raises:
            ValueError: an option that would have no effect, or an unknown argument; more items than beams; no trie; a
                history without cache, or with an item that the cache does not hold; a user without any passage;
                another argument of an impossible shape or value; scores that are not finite.
            TypeError: an argument of another type.

        Example:
            >>> inputs = tokenizer(histories=[["B0003", "B0007"]], return_tensors="pt")
            >>> output = model.generate(**inputs, num_beams=5, num_return_sequences=3, return_dict_in_generate=True)
            >>> output.item_indices.shape, output.sequences_scores.shape
            (torch.Size([1, 3]), torch.Size([3]))
        """
        options = search_options(self.config, self.generation_config, generation_config, kwargs, exact)
        score_mode = score_mode or self.config.score_mode
        if score_mode not in SCORE_MODES:
            raise ValueError(f"score_mode is {score_mode!r}; it must be one of {', '.join(SCORE_MODES)}")
        trie = self._trie(item_trie)
        if options.max_length <= trie.depth:
            raise ValueError(
                f"`max_length` or `max_new_tokens` leaves room for {options.max_length} tokens; "
                f"the longest sequence of the catalogue has {trie.depth + 1}"
            )
        if encoder_outputs is not None:
            if history is not None or item_cache is not None:
                raise ValueError("give `encoder_outputs`, or `history` with `item_cache`, not both")
            states, mask = read_encoded(self.config, encoder_outputs, input_ids, attention_mask)
            check_users(mask)
            fused = FusedPassages.of_encoder_outputs(states, mask)
        else:
            fused, _ = self._fused(input_ids, attention_mask, history, item_cache)
        allowed = None
        if allowed_items is not None:
            (rows,) = catalogue_rows("allowed_items", [allowed_items], 1, self.device, trie.num_items)
            allowed = trie.subset(rows)
        if excluded_items is not None:
            excluded_items = catalogue_rows("excluded_items", excluded_items, len(fused.index), self.device)
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        search, num_scored_nodes = (options.num_items, options.length_penalty, start), None
        if exact:
            left = excluded_items, allowed
            leaves, scores, num_scored_nodes, sums = self._exact(fused, trie, score_mode, search, *left)
        else:
            num_beams = options.num_beams
            step = PrefixDecoder(self, fused, trie.depth, num_beams * trie.depth, score_mode, options.compile_config)
            leaves, scores = beam_search(
                *(step, trie, len(fused.index), num_beams, *search, excluded_items, allowed),
                renormalised=score_mode == "trie",
                is_static=options.compile_config is not None,
            )
            sums = step.sums
        _check_finite(sums)
        sequences = F.pad(trie.sequences(leaves, pad).flatten(0, 1), (1, 0), value=start)
        if not options.return_dict:
            return sequences
        items = trie.items[leaves.clamp(min=0)].long().masked_fill(leaves < 0, -1)
        return GramGenerateOutput(
            sequences=sequences,
            sequences_scores=scores.flatten(),
            item_indices=items,
            num_scored_nodes=num_scored_nodes,
        )

    @torch.no_grad()
    def explain(
        self,
        item_indices: torch.LongTensor,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        item_trie: ItemTrie | None = None,
        history: torch.LongTensor | None = None,
        item_cache: ItemCache | None = None,
    ) -> GramExplanation:
        """Why items are recommended: what the decoder attends to, and how an ID is spelled out through the trie.

        Args:
            item_indices (B, K): catalogue rows of items, recommended or not, -1 for none: what [`generate`] returned.
            input_ids, attention_mask, item_trie, history, item_cache: as given to [`generate`], which says what is
                refused; so is an item that is not in the trie.

        Returns:
            A [`GramExplanation`], all of it exact and from the model's own weights.
        """
        trie = self._trie(item_trie)
        fused, num_passages = self._fused(input_ids, attention_mask, history, item_cache)
        items = catalogue_rows("item_indices", item_indices, len(fused.index), self.device)
        found = explain_items(self, fused, num_passages, items, trie)
        _check_finite([found.token_log_probs.sum()])
        return found

    def _trie(self, item_trie: ItemTrie | None) -> ItemTrie:
        if item_trie is not None:
            check_trie(item_trie, self.config.vocab_size)
            return item_trie.to(self.device)
        if self.item_trie is None:
            raise ValueError("the model has no item trie: give `item_trie`, or call `set_item_trie` once")
        return self.item_trie

    def _exact(self, fused, trie, score_mode, search, excluded_items, allowed) -> tuple:
        found, sums = [], []
        for user in range(len(fused.index)):
            step = PrefixDecoder(self, fused.of_user(user), trie.depth, _EXACT_SLOTS, score_mode)
            excluded = None if excluded_items is None else excluded_items[user]
            found.append(exact_search(step, trie, *search, excluded_items=excluded, allowed=allowed))
            sums += step.sums
        leaves, scores, num_scored_nodes = zip(*found, strict=True)
        return torch.stack(leaves), torch.stack(scores), torch.tensor(num_scored_nodes, device=self.device), sums

    def _fused(self, input_ids, attention_mask, history, item_cache) -> tuple[FusedPassages, int]:
        """What the users attend to, of at most how many passages: given as (B, P, L), or looked up; see [`generate`].

        Distinct passages are encoded once each.
        """
        if history is not None or item_cache is not None:
            return self._fused_from_cache(input_ids, attention_mask, history, item_cache)
        input_ids, attention_mask = read_passages(self.config, input_ids, attention_mask)
        check_users(attention_mask)
        real = attention_mask.any(dim=-1)  # (B, P)
        both = torch.stack([input_ids[real], attention_mask[real]], dim=-1)  # (N, L, 2)
        both, which = both.unique(dim=0, return_inverse=True)
        ids, mask = both.unbind(-1)
        states = encode_packed(self.encoder, ids, mask)  # (T, d)
        passages = torch.full_like(real, -1, dtype=torch.long).masked_scatter(real, which)
        return FusedPassages.of(states, mask.sum(-1), passages, self.passage_positions), passages.shape[1]

    def _fused_from_cache(self, input_ids, attention_mask, history, item_cache) -> tuple[FusedPassages, int]:
        """Encode the user prompts, (B, 1, L), and look up the items of the histories; see [`generate`]."""
        if history is None or item_cache is None or input_ids is None:
            raise ValueError("give `history`, `item_cache` and the user prompts' `input_ids` together")
        input_ids, mask = (
            found[:, 0] for found in read_passages(self.config, input_ids, attention_mask, ("users", 1, "tokens"))
        )  # (B, L)
        num_items = item_cache.num_items
        if self.item_trie is not None and num_items < self.item_trie.num_items:
            raise ValueError(
                f"`item_cache` is of a catalogue of {num_items} items; the model's has {self.item_trie.num_items}"
            )
        most = self.config.max_history
        history = catalogue_rows("history", history, len(input_ids), self.device, num_items, most)  # (B, S)
        in_history = history >= 0  # (B, S)
        empty = (~in_history.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"`history` holds no item of user {empty[0]}; give catalogue rows, padded with -1")
        prompts = encode_packed(self.encoder, input_ids, mask)
        rows, which = history[in_history].unique(return_inverse=True)
        items, lengths = (found.to(self.device) for found in item_cache.gather(rows))
        if items.shape[1] != prompts.shape[1]:
            raise ValueError(f"`item_cache` is of a model of d_model {items.shape[1]}, not {prompts.shape[1]}")
        states = torch.cat([prompts, items.to(prompts.dtype)])  # (T, d)
        passages = F.pad(history.masked_scatter(in_history, which + len(history)), (1, 0))  # (B, 1 + S)
        passages[:, 0] = torch.arange(len(history), device=self.device)
        lengths = torch.cat([mask.sum(dim=1), lengths])
        return FusedPassages.of(states, lengths, passages, self.passage_positions), passages.shape[1]


def _check_finite(sums: list[torch.Tensor]) -> None:
    # A NaN may end up in no score at all: where items are compared, it is above or below all others.
    if sums and not torch.stack(sums).sum().isfinite():
        raise ValueError(
            "the model's scores are not finite: there is NaN or infinity in its weights or in the item encodings, "
            "as after a training that diverged; take another checkpoint"
        )


@dataclass
class GramExplanation(ModelOutput):
    """Of K items for each of B users. All is 0 (tokens: padding) behind an ID's end and where there is no item.

    Args:
        attention_shares (`torch.FloatTensor` of shape `(B, K, P)`):
            How the decoder's cross-attention divides over the passages, 0 the user prompt, 1 the newest item and so on,
            while it spells out the item: mean over layers, heads and tokens, end token included. An item's sum to 1.
        token_ids (`torch.LongTensor` of shape `(B, K, T)`):
            The item's lexical ID with its end token.
        token_log_probs (`torch.FloatTensor` of shape `(B, K, T)`):
            Each token's log-probability, over what `config.score_mode` says. Their sum, over the number of tokens to
            the power of `length_penalty`, is the score that `generate` gives.
        choice_probs (`torch.FloatTensor` of shape `(B, K, T)`):
            Each token's probability among those that the trie allows in its place.
        num_choices (`torch.LongTensor` of shape `(B, K, T)`):
            How many tokens the trie allows there.
        num_items_left (`torch.LongTensor` of shape `(B, K, T)`):
            Items whose IDs begin with the tokens up to this one; 1 at the end.
    """

    attention_shares: torch.FloatTensor | None = None
    token_ids: torch.LongTensor | None = None
    token_log_probs: torch.FloatTensor | None = None
    choice_probs: torch.FloatTensor | None = None
    num_choices: torch.LongTensor | None = None
    num_items_left: torch.LongTensor | None = None


def explain_items(
    model, fused: FusedPassages, num_passages: int, items: torch.Tensor, trie: ItemTrie
) -> GramExplanation:
    """Explain items (B, K) to users of at most P passages, a user's in one pass of the decoder."""
    if not items.numel():
        raise ValueError(f"`item_indices` must be of shape ({len(items)}, 1 or more), got {tuple(items.shape)}")
    unknown = (items >= trie.num_items) | (trie.leaves[items.clamp(0, trie.num_items - 1)] < 0) & (items >= 0)
    if unknown.any():
        raise ValueError(f"`item_indices`: item {int(items[unknown][0])} is not in the trie of lexical IDs")
    leaves = trie.leaves[items.clamp(min=0)].long().masked_fill(items < 0, 0)  # the root, where there is no item
    after = trie.paths(leaves)  # (B, K, D), the node that each token leads to
    after = after[..., : max(int((after > 0).sum(-1).amax()), 1)]  # (B, K, T)
    spelled = after > 0
    before = F.pad(after, (1, -1))
    token_ids = trie.tokens[after].long().masked_fill(~spelled, model.config.pad_token_id)

    given = F.pad(token_ids, (1, -1), value=model.config.decoder_start_token_id)
    states, shares = _decode(model, fused, num_passages, given)  # (B, K, T, d), (B, K, T, P)
    children, legal = trie.expand(before.flatten(1))  # (B, K * T, F)
    children, legal = children.flatten(0, 1), legal.flatten(0, 1)
    candidates = trie.tokens[children].long().clamp(min=0)
    log_probs = SCORES[model.config.score_mode](model, states.flatten(0, 2), candidates, legal)  # (B * K * T, F)
    chosen = (after - trie.offsets[before]).clamp(min=0).flatten()[:, None]

    def of_tokens(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(spelled.shape).masked_fill(~spelled, 0)

    num_tokens = spelled.sum(-1, keepdim=True).clamp(min=1)
    return GramExplanation(
        attention_shares=shares.masked_fill(~spelled[..., None], 0).sum(2) / num_tokens,
        token_ids=token_ids,
        token_log_probs=of_tokens(log_probs.gather(1, chosen)),
        choice_probs=of_tokens(log_probs.softmax(-1).gather(1, chosen)),
        num_choices=of_tokens(legal.sum(-1)),
        num_items_left=of_tokens(trie.sizes[after].long()),
    )


def _decode(model, fused: FusedPassages, num_passages: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder on prefixes (B, K, T) that are known in full, the start token first, in one pass.

    Of forward hooks those of modules with weights run, and no others.

    Returns:
        States (B, K, T, d) after the final norm, and shares of attention (B, K, T, P), mean over layers and heads.
    """
    decoder, depth, shares = model.decoder, given.shape[2], []
    of_passage = (F.one_hot(fused.place, num_passages) * fused.mask[..., None]).float()  # (B, M, P)
    bias, memory, slots = decoder_inputs(model, fused, depth, given[0].numel())
    rows = torch.arange(given.numel(), device=given.device).view(len(given), -1, 1)
    back = torch.arange(depth, device=given.device)  # a token's parent is one back, as far as its prefix goes
    bias = bias.masked_fill((rows % depth < back)[..., None], -torch.inf)  # (B, K * T, T, H)
    states = run_blocks(
        decoder,
        decoder.embed_tokens(given.flatten(1)),
        slots.flatten(2, 3),
        (rows - back).clamp(min=0),
        bias,
        memory,
        ~fused.mask[:, None],
        lambda weights: shares.append(weights.float().mean(0) @ of_passage),
    )
    return states.view(*given.shape, -1), torch.stack(shares).mean(0).view(*given.shape, -1)


__all__ = ["GramExplanation", "GramGenerateOutput", "GramSearchMixin"]
