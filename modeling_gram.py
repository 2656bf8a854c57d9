"""GRAM: passages encoded one by one, fused in the decoder's cross-attention, on T5's own blocks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, CompileConfig, GenerationMixin, initialization
from transformers.generation import GenerationConfig
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration
from transformers.utils.generic import can_return_tuple

from .configuration_gram import GramConfig
from .decoding_gram import SCORE_MODES, PrefixDecoder
from .encoding_gram import encode_packed
from .exact_gram import exact_search
from .explanation_gram import GramExplanation, explain_items
from .fusion_gram import FusedPassages
from .generation_gram import beam_search
from .item_cache_gram import BATCH_TOKENS, ROWS_PER_SHARD, ItemCache
from .training_gram import decode_grouped, target_loss
from .trie_gram import ItemTrie

if TYPE_CHECKING:  # not run; but relative imports are what tells which files are saved with a model
    from .pipeline_gram import GenerativeRecommendationPipeline  # noqa: F401

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


class GramPositionEmbedding(nn.Embedding):
    """Learned embedding of a passage's place: 0 the user prompt, 1 the newest item, 2 the one before it ..."""


class GramForConditionalGeneration(T5ForConditionalGeneration, GenerationMixin):
    r"""Generative recommender with multi-granular late fusion (arXiv 2506.01673, section 3.2).

    The coarse user prompt and one fine item prompt per item of the history, the *passages*, are encoded on their own by
    T5's encoder. A learned position is added to each, and the decoder attends to all of them at once while it spells
    out the next item's lexical ID, held to the trie of the catalogue's IDs.

    Example:
        >>> from gram import GramConfig, GramForConditionalGeneration
        >>> model = GramForConditionalGeneration(GramConfig(vocab_size=100, d_model=32, d_ff=64, num_layers=1))
        >>> model.position_embedding.weight.shape
        torch.Size([21, 32])
    """

    config_class = GramConfig
    _auto_class = "AutoModel"

    def __init__(self, config: GramConfig):
        super().__init__(config)
        self.position_embedding = GramPositionEmbedding(config.max_history + 1, config.d_model)
        has_trie = config.trie_num_nodes > 0
        self.item_trie = ItemTrie(config.trie_num_items, config.trie_num_nodes, config.trie_depth) if has_trie else None
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """Whether transformers takes this class for code from outside; it must not."""
        # transformers skips modules without direct parameters when it initialises code from outside, and with them
        # all of T5's initialisation, which is written per attention and per feed-forward layer.
        return False

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, GramPositionEmbedding):
            initialization.normal_(module.weight, mean=0.0, std=0.02 * self.config.initializer_factor)
        else:
            super()._init_weights(module)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Weights that are one, each with the one it is tied to."""
        # T5's embeddings are always one; only the head may have weights of its own.
        tied = dict(self._tied_weights_keys)
        if not self.config.tie_word_embeddings:
            del tied["lm_head.weight"]
        return tied

    @classmethod
    def from_backbone(cls, backbone: str, **config_fields) -> "GramForConditionalGeneration":
        """Start from the weights of a T5 checkpoint: T5, T5 v1.1, FLAN-T5, mT5 and their kin.

        Args:
            backbone: name on the Hub, or a folder.
            config_fields: GRAM's own fields of [`GramConfig`], or overrides of T5's.

        Raises:
            ValueError: the checkpoint is no T5.

        Example:
            >>> from transformers import T5Config, T5ForConditionalGeneration
            >>> shape = T5Config(vocab_size=10, d_model=8, d_ff=8, num_layers=1)
            >>> T5ForConditionalGeneration(shape).save_pretrained("t5")
            >>> GramForConditionalGeneration.from_backbone("t5", max_history=5).position_embedding.weight.shape
            torch.Size([6, 8])
        """
        t5 = AutoModelForSeq2SeqLM.from_pretrained(backbone)
        if t5.config.model_type not in ("t5", "mt5"):
            raise ValueError(f"{backbone}: a {t5.config.model_type!r} is no backbone; give a T5 or mT5 checkpoint")
        names = GramConfig.__dataclass_fields__.keys() - {
            "architectures",
            "transformers_version",
            "model_type",
            "dtype",
        }
        fields = {name: getattr(t5.config, name) for name in names if hasattr(t5.config, name)}
        fields["tie_word_embeddings"] = t5.lm_head.weight is t5.shared.weight
        model = cls(GramConfig(**{**fields, **config_fields}))
        missing, unexpected = model.load_state_dict(t5.state_dict(), strict=False)
        if unexpected or missing != ["position_embedding.weight"]:
            raise ValueError(f"{backbone}: weights do not fit T5's names; missing {missing}, unexpected {unexpected}")
        return model

    def set_item_trie(self, trie: ItemTrie) -> None:
        """Make `trie` the model's own: it is saved with the checkpoint and used by [`generate`].

        Example:
            >>> small = GramForConditionalGeneration(GramConfig(vocab_size=10, d_model=8, d_ff=8, num_layers=1))
            >>> small.set_item_trie(ItemTrie.from_sequences([[5, 1], [7, 1]]))
            >>> small.config.trie_num_items
            2
        """
        self.item_trie = trie.to(self.device)
        self.config.trie_num_items = trie.num_items
        self.config.trie_num_nodes = trie.num_nodes
        self.config.trie_depth = trie.depth

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Two users of two passages each, for tools that need something to run the model on."""
        input_ids = torch.tensor([[[7, 6, 1], [5, 1, 0]], [[3, 4, 1], [0, 0, 0]]], device=self.device)
        return {"input_ids": input_ids, "attention_mask": input_ids.ne(0).long(), "labels": input_ids[:, 0]}

    def encode(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutput:
        """Encode passages, each on its own, and lay them end to end.

        Args:
            input_ids (B, P, L): passage 0 is the user prompt, passage 1 the newest item's prompt, and so on.
            attention_mask (B, P, L): 0 at padding, which is not computed.

        Returns:
            `last_hidden_state` (B, P * L, d_model); zero at padding.

        Raises:
            ValueError: not three dimensions, more passages than `max_history + 1`, or padding within a passage.
        """
        self._check_passages(input_ids)
        batch_size, num_passages, length = input_ids.shape
        attention_mask = self._mask(input_ids, attention_mask)
        states = encode_packed(self.encoder, input_ids.flatten(0, 1), attention_mask.flatten(0, 1))  # (T, d)
        rows = attention_mask.flatten().nonzero().flatten()  # (T,)
        states = states + self.position_embedding(rows // length % num_passages)
        fused = states.new_zeros(attention_mask.numel(), states.shape[-1]).index_copy(0, rows, states)
        return BaseModelOutput(last_hidden_state=fused.view(batch_size, num_passages * length, -1))

    def encode_items(
        self,
        tokenizer,
        folder: str | None = None,
        dtype: str = "float32",
        batch_tokens: int = BATCH_TOKENS,
        rows_per_shard: int = ROWS_PER_SHARD,
        processes=None,
        progress: bool = True,
        overwrite: bool = False,
    ) -> ItemCache:
        """Encode every item of the catalogue once, for [`generate`] to look up.

        In a folder, what fits this model and catalogue is kept: an interrupted run goes on, items that were added at
        the catalogue's end are appended, a finished run does nothing.

        Args:
            tokenizer: the model's [`GramTokenizer`].
            folder: where the encodings are kept, to be opened later with `ItemCache.open`; None: in memory only.
            dtype: `"float32"`, `"bfloat16"` (half the size) or `"int8"` (a quarter).
            batch_tokens: most tokens that are encoded at once.
            rows_per_shard: items in a file of the folder; what an interruption may cost.
            processes: an `accelerate.PartialState`; each process encodes its share of the shards, and all wait for all.
            progress: show a bar with the time left.
            overwrite: replace what does not fit.

        Returns:
            The cache; for a folder in shards that are memory-mapped, otherwise on the model's device.

        Raises:
            ValueError: an unknown `dtype`; without `overwrite`, a folder of another encoder, of other item prompts or
                of another `dtype`.

        Example:
            >>> item_cache = model.encode_items(tokenizer, progress=False)
            >>> inputs = tokenizer(histories=[["B0003", "B0007"]], item_prompts=False, return_tensors="pt")
            >>> len(model.generate(**inputs, item_cache=item_cache, num_beams=5, num_return_sequences=3))
            3
        """
        if folder is None:
            return ItemCache.in_memory(self, tokenizer, None, dtype, batch_tokens, progress)
        return ItemCache.update(
            folder, self, tokenizer, dtype, batch_tokens, rows_per_shard, processes, progress, overwrite
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        history: dict[str, torch.Tensor] | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        r"""Score lexical IDs.

        Two forms give the same loss and gradients. The *plain* form takes all passages of every sample. The *grouped*
        form, for training, takes the user prompts alone, and once what samples share: see `history`.

        Args:
            input_ids (B, P, L): the passages; grouped: (N, L), the user prompts of N = G * R samples.
            attention_mask: of the same shape, 0 at padding; by default everything but padding tokens.
            decoder_input_ids (B, T): by default `labels` shifted right.
            labels (B, T): lexical IDs with their end token; -100 is left out of the loss.
            encoder_outputs: what [`encode`] returned for these passages, instead of `input_ids`.
            history: the grouped form's items. G groups of R samples each, all prefixes of one user's sequence:
                input_ids, attention_mask (U, L): the unique item prompts;
                items (G, S): the item prompt in each of a group's S slots;
                positions (G, R, S): place of each slot in each sample's history, 1 the newest; 0 where not in it.
            num_items_in_batch: divisor of the summed loss in place of this batch's number of target tokens.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict` and other arguments of T5's decoder.

        Returns:
            `loss` (mean cross-entropy of the target tokens) where there are labels, `logits` (B, T, vocab_size); the
            grouped form gives the loss or, without labels, the logits, which it never holds all at once.
        """
        if decoder_input_ids is None and labels is None:
            raise ValueError("give `labels`, or `decoder_input_ids`; to recommend items, call `generate`")
        if decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        attention_mask = self._mask(input_ids, attention_mask)
        if history is not None:
            states = decode_grouped(self, input_ids, attention_mask, decoder_input_ids, history)
            if labels is None:
                return Seq2SeqLMOutput(logits=self._logits(states))
            return Seq2SeqLMOutput(loss=target_loss(self, states, labels, num_items_in_batch))
        if encoder_outputs is None:
            encoder_outputs = self.encode(input_ids, attention_mask)
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=encoder_outputs[0],
            encoder_attention_mask=attention_mask.flatten(1),
            **kwargs,
        )
        logits = self._logits(decoded.last_hidden_state)
        loss = None
        if labels is not None:
            flat = logits.flatten(0, 1).float(), labels.flatten()  # -100 is what cross_entropy leaves out
            if num_items_in_batch is None:
                loss = F.cross_entropy(*flat)
            else:
                loss = F.cross_entropy(*flat, reduction="sum") / num_items_in_batch
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=decoded.get("past_key_values"),
            decoder_hidden_states=decoded.get("hidden_states"),
            decoder_attentions=decoded.get("attentions"),
            cross_attentions=decoded.get("cross_attentions"),
            encoder_last_hidden_state=encoder_outputs.get("last_hidden_state"),
        )

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
        return FusedPassages.of(states, mask.sum(-1), passages, self.position_embedding.weight)

    def _check_passages(self, input_ids: torch.LongTensor) -> None:
        if input_ids.dim() != 3:
            raise ValueError(f"`input_ids` must be (users, passages, tokens), got shape {tuple(input_ids.shape)}")
        if input_ids.shape[1] > self.config.max_history + 1:
            most = self.config.max_history + 1
            raise ValueError(f"`input_ids` holds {input_ids.shape[1]} passages a user; the model reads at most {most}")

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
        return FusedPassages.of(states, lengths, passages, self.position_embedding.weight)

    def _mask(self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None) -> torch.Tensor:
        if attention_mask is not None:
            return attention_mask
        if input_ids is None:
            raise ValueError("give `input_ids`, or `encoder_outputs` with their `attention_mask`")
        return input_ids.ne(self.config.pad_token_id).long()

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.lm_head(states * self.model_dim**-0.5 if self.config.scale_decoder_outputs else states)


__all__ = ["GramForConditionalGeneration", "GramGenerateOutput", "ItemTrie"]
