"""GRAM's `generate` and `explain`: from passages, or a cache of them, to items of the catalogue."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import CompileConfig
from transformers.generation import GenerationConfig
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput

from .decoding_gram import PrefixDecoder
from .encoding_gram import encode_packed
from .exact_gram import exact_search
from .explanation_gram import GramExplanation, explain_items
from .fusion_gram import FusedPassages
from .generation_gram import beam_search
from .item_cache_gram import ItemCache
from .trie_gram import ItemTrie

SCORE_MODES = ("vocabulary", "trie")
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
        encoder_outputs: BaseModelOutput | None = None,
        history: torch.LongTensor | None = None,
        item_cache: ItemCache | None = None,
        score_mode: str = "vocabulary",
        exact: bool = False,
        **kwargs,
    ) -> GramGenerateOutput | torch.LongTensor:
        r"""Recommend items: beam search over the trie of lexical IDs.

        An item is returned at most once per user, and nothing is returned that is not an item. Beams share their
        user's cross-attention keys and values. No state of the model changes, so threads may share it.

        Args:
            input_ids, attention_mask (B, P, L): the users' passages.
            generation_config: `num_beams`, `num_return_sequences`, `length_penalty` and `return_dict_in_generate` are
                heeded, also as keyword arguments; the trie bounds the length. `cache_implementation="static"` gives
                every step of beam search one shape and compiles it as `compile_config` says: for GPUs.
            item_trie: the items to choose from, in place of the model's own trie.
            excluded_items (B, E): catalogue rows that a user must not get, padded with -1.
            encoder_outputs: what [`encode`] returned for these passages, in place of `input_ids`.
            history (B, S): catalogue rows of the items that the model reads, newest first, padded with -1, in place of
                their prompts: `input_ids` are then the user prompts alone, (B, 1, L). Needs `item_cache`. This is what
                `tokenizer(histories=..., item_prompts=False)` gives.
            item_cache: encodings of the items, see [`encode_items`].
            score_mode: `"vocabulary"`: a token's log-probability is over the whole vocabulary. `"trie"`: over the
                tokens that the trie allows; cheaper, and another ranking.
            exact: search until no other item can be among the best K, user by user, in place of beam search.

        Returns:
            Sequences (B * K, 1 + T), K = `num_return_sequences`, each the start token, a lexical ID, its end token and
            padding; or a [`GramGenerateOutput`] with these, `sequences_scores` (B * K,) and `item_indices` (B, K).
            A sequence's score is the sum of its tokens' log-probabilities, divided by its length, end token included,
            to the power of `length_penalty`. Where a user has fewer than K items to choose from, the rest is padding
            with score -inf. Exact search also gives `num_scored_nodes` (B,).

        Raises:
            ValueError: sampling is asked for; more items than beams; no trie; an unknown argument; a history without
                cache, or with an item that the cache does not hold.

        Example:
            >>> inputs = tokenizer(histories=[["B0003", "B0007"]], return_tensors="pt")
            >>> output = model.generate(**inputs, num_beams=5, num_return_sequences=3, return_dict_in_generate=True)
            >>> output.item_indices.shape, output.sequences_scores.shape
            (torch.Size([1, 3]), torch.Size([3]))
        """
        if exact:  # has no beams, of which transformers would want as many as items are asked for
            kwargs["num_beams"] = kwargs.get("num_return_sequences")
        options, unknown = self._prepare_generation_config(generation_config, **kwargs)
        num_beams, num_items = options.num_beams or 1, options.num_return_sequences or 1
        trie = self.item_trie if item_trie is None else item_trie.to(self.device)
        unknown = sorted(set(unknown) - {"output_attentions", "output_hidden_states"})
        if unknown:
            raise ValueError(f"generate() got an unknown argument {unknown[0]!r}")
        if score_mode not in SCORE_MODES:
            raise ValueError(f"score_mode is {score_mode!r}; it must be one of {', '.join(SCORE_MODES)}")
        if options.do_sample:
            raise ValueError("generate() ranks items by beam search; `do_sample=True` has no meaning here")
        if trie is None:
            raise ValueError("the model has no item trie: give `item_trie`, or call `set_item_trie` once")

        if encoder_outputs is not None:
            fused = FusedPassages.of_encoder_outputs(encoder_outputs[0], self._mask(None, attention_mask).flatten(1))
        else:
            fused = self._fused(input_ids, attention_mask, history, item_cache)
        penalty = 1.0 if options.length_penalty is None else options.length_penalty
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        search = (num_items, penalty, start)
        num_scored_nodes = None
        if exact:
            leaves, scores, num_scored_nodes = self._exact(fused, trie, score_mode, search, excluded_items)
        else:
            is_static = options.cache_implementation == "static"
            config = (options.compile_config or CompileConfig()) if is_static else None
            step = PrefixDecoder(self, fused, trie.depth, num_beams * trie.depth, score_mode, config)
            leaves, scores = beam_search(
                *(step, trie, len(fused.index), num_beams, *search, excluded_items),
                renormalised=score_mode == "trie",
                is_static=is_static,
            )
        sequences = F.pad(trie.sequences(leaves, pad).flatten(0, 1), (1, 0), value=start)
        if not options.return_dict_in_generate:
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
            input_ids, attention_mask, item_trie, history, item_cache: as given to [`generate`].

        Returns:
            A [`GramExplanation`], all of it exact and from the model's own weights.

        Raises:
            ValueError: no trie; `item_indices` of another shape, or of an item that is not in the trie; and what
                [`generate`] raises for the passages.
        """
        trie = self.item_trie if item_trie is None else item_trie.to(self.device)
        if trie is None:
            raise ValueError("the model has no item trie: give `item_trie`, or call `set_item_trie` once")
        fused = self._fused(input_ids, attention_mask, history, item_cache)
        num_passages = input_ids.shape[1] if history is None else 1 + history.shape[1]
        return explain_items(self, fused, num_passages, item_indices.to(self.device), trie)

    def _exact(
        self, fused, trie, score_mode, search, excluded_items
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        found = []
        for user in range(len(fused.index)):
            step = PrefixDecoder(self, fused.of_user(user), trie.depth, _EXACT_SLOTS, score_mode)
            excluded = None if excluded_items is None else excluded_items[user]
            found.append(exact_search(step, trie, *search, excluded_items=excluded))
        leaves, scores, num_scored_nodes = zip(*found, strict=True)
        return torch.stack(leaves), torch.stack(scores), torch.tensor(num_scored_nodes, device=self.device)

    def _fused(self, input_ids, attention_mask, history, item_cache) -> FusedPassages:
        """Encode the distinct passages among (B, P, L), each once, or look up the items; see [`generate`]."""
        if history is not None or item_cache is not None:
            return self._fused_from_cache(input_ids, attention_mask, history, item_cache)
        attention_mask = self._mask(input_ids, attention_mask)
        self._check_passages(input_ids)
        real = attention_mask.any(dim=-1)  # (B, P)
        both = torch.stack([input_ids[real], attention_mask[real]], dim=-1)  # (N, L, 2)
        both, which = both.unique(dim=0, return_inverse=True)
        ids, mask = both.unbind(-1)
        states = encode_packed(self.encoder, ids, mask)  # (T, d)
        passages = torch.full_like(real, -1, dtype=torch.long).masked_scatter(real, which)
        return FusedPassages.of(states, mask.sum(-1), passages, self.passage_positions)

    def _fused_from_cache(self, input_ids, attention_mask, history, item_cache) -> FusedPassages:
        """Encode the user prompts, (B, 1, L), and look up the items of the histories; see [`generate`]."""
        if history is None or item_cache is None or input_ids is None:
            raise ValueError("give `history`, `item_cache` and the user prompts' `input_ids` together")
        if input_ids.dim() != 3 or input_ids.shape[1] != 1:
            raise ValueError(f"with `history`, `input_ids` must be (users, 1, tokens), got {tuple(input_ids.shape)}")
        if history.dim() != 2 or len(history) != len(input_ids) or history.shape[1] > self.config.max_history:
            most = f"({len(input_ids)}, {self.config.max_history} or fewer)"
            raise ValueError(f"`history` must be of shape {most}, got {tuple(history.shape)}")
        in_history = history >= 0  # (B, S)
        if not in_history.any():
            raise ValueError("`history` holds no item; give catalogue rows, padded with -1")
        mask = self._mask(input_ids, attention_mask)[:, 0]  # (B, L)
        prompts = encode_packed(self.encoder, input_ids[:, 0], mask)
        rows, which = history[in_history].unique(return_inverse=True)
        items, lengths = (found.to(self.device) for found in item_cache.gather(rows))
        states = torch.cat([prompts, items.to(prompts.dtype)])  # (T, d)
        passages = F.pad(history.masked_scatter(in_history, which + len(history)), (1, 0))  # (B, 1 + S)
        passages[:, 0] = torch.arange(len(history), device=self.device)
        lengths = torch.cat([mask.sum(dim=1), lengths])
        return FusedPassages.of(states, lengths, passages, self.passage_positions)


__all__ = ["GramGenerateOutput", "GramSearchMixin"]
