"""GRAM: passages encoded one by one, fused in the decoder's cross-attention, on T5's own blocks.

Which file calls which; each imports only what stands below it:

    pipeline       histories of item ids in, recommended items out; catalogue rows for all who have them
    modeling       `forward`, `encode`, `encode_items`, loading and saving
    search         `generate` and `explain`
    training       the grouped form: a user's prefixes folded, and the loss
    item_cache     encodings of the catalogue's items, made once and kept
    decoding       many prefixes over passages that are held once
    encoding       passages without padding; layers: norm, dropout, hooks
    generation     beam search and exact search
    tokenization   ids into prompts, sequences into ids
    configuration  settings; loading: what holds a folder together
    trie           the lexical IDs as tensors; arguments: what is given, checked
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, Cache, GenerationMixin, initialization
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.t5.modeling_t5 import T5ForConditionalGeneration
from transformers.utils.generic import can_return_tuple

from .arguments_gram import (
    OF_GENERATE,
    check_trie,
    read_encoded,
    read_history,
    read_passages,
    read_soft_targets,
    read_targets,
)
from .configuration_gram import GramConfig
from .encoding_gram import encode_packed
from .item_cache_gram import BATCH_TOKENS, DTYPES, ROWS_PER_SHARD, ItemCache
from .layers_gram import tensors_of
from .loading_gram import add_checksums, check_catalogue, check_loaded, weight_files
from .search_gram import GramGenerateOutput, GramSearchMixin
from .training_gram import decode_grouped, places_to_decode, shares_of, target_loss
from .trie_gram import ItemTrie

if TYPE_CHECKING:  # not run; but relative imports are what tells which files are saved with a model
    from .pipeline_gram import GenerativeRecommendationPipeline  # noqa: F401


class GramPositionEmbedding(nn.Embedding):
    """Learned embedding of a passage's place: 0 the user prompt, 1 the newest item, 2 the one before it ..."""


class GramForConditionalGeneration(GramSearchMixin, T5ForConditionalGeneration, GenerationMixin):
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
            std = 0.02 * self.config.initializer_factor if self.config.passage_position else 0.0
            initialization.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, ItemTrie):  # empty, where a checkpoint or a configuration alone brings none
            for name, buffer in module.named_buffers():
                initialization.constant_(buffer, -1 if name == "leaves" else 0)
        else:
            super()._init_weights(module)

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Weights that are one, each with the one it is tied to."""
        # T5's embeddings are always one; only the head may have weights of its own.
        tied = dict(self._tied_weights_keys)
        if not self.config.tie_word_embeddings:
            del tied["lm_head.weight"]
        return tied

    def get_submodule(self, target: str) -> nn.Module:
        """A module by its name; PEFT's soft prompts, which ask for one that T5 does not have, are refused here."""
        if target == "embeddings.word_embeddings":
            raise ValueError(
                "a GRAM takes no soft prompts (prompt tuning, prefix tuning, P-tuning): they belong to one sequence, "
                "and it reads many passages; use LoRA or another adapter of weights"
            )
        return super().get_submodule(target)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """Load a model; see [`~transformers.PreTrainedModel.from_pretrained`].

        Raises:
            ValueError: `config.json` was changed, or the weights are not those that it was saved with; a tensor is
                missing or superfluous, unless `ignore_mismatched_sizes=True`; one holds NaN, infinity or integers.
        """
        with_info, name = kwargs.pop("output_loading_info", False), pretrained_model_name_or_path
        model, info = super().from_pretrained(name, *model_args, output_loading_info=True, **kwargs)
        check_loaded(model, info, name, kwargs)
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory, is_main_process=True, state_dict=None, **kwargs):
        """Save the model, with checksums; see [`~transformers.PreTrainedModel.save_pretrained`].

        Raises:
            ValueError: the weights were quantised after loading; only what `quantization_config` quantises is saved.
        """
        if state_dict is None and not hasattr(self, "hf_quantizer"):
            for weight in self.state_dict().values():
                if tensors_of(weight) and type(weight).__module__.startswith("torchao."):
                    raise ValueError(
                        "torchao has quantised the model in memory; load it with a TorchAoConfig to save it"
                    )
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        weights = weight_files(save_directory) if is_main_process and kwargs.get("variant") is None else []
        if weights and not getattr(self, "_hf_peft_config_loaded", False):
            add_checksums(Path(save_directory) / "config.json", weights)

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
        others = {"architectures", "transformers_version", "model_type", "dtype"}
        names = GramConfig.__dataclass_fields__.keys() - others
        fields = {name: getattr(t5.config, name) for name in names if hasattr(t5.config, name)}
        fields["tie_word_embeddings"] = t5.lm_head.weight is t5.shared.weight
        model = cls(GramConfig(**{**fields, **config_fields}))
        missing, unexpected = model.load_state_dict(t5.state_dict(), strict=False)
        if unexpected or missing != ["position_embedding.weight"]:
            raise ValueError(f"{backbone}: weights do not fit T5's names; missing {missing}, unexpected {unexpected}")
        return model

    def set_item_trie(self, trie: ItemTrie) -> None:
        """Make `trie` the model's own: it is saved with the checkpoint and used by [`generate`]."""
        check_trie(trie, self.config.vocab_size)
        self.item_trie = trie.to(self.device)
        self.config.trie_num_items = trie.num_items
        self.config.trie_num_nodes = trie.num_nodes
        self.config.trie_depth = trie.depth

    @property
    def passage_positions(self) -> torch.Tensor:
        """What a passage's encoding gets for its place, (P, d_model): zero where `config.passage_position` is False."""
        # Called, not read: an adapter may be in its place, or accelerate may fetch the weight for the call.
        embedded = self.position_embedding(torch.arange(self.config.max_history + 1, device=self.device))
        return embedded if self.config.passage_position else torch.zeros_like(embedded)

    @property
    def device(self) -> torch.device:
        """Where the model computes; accelerate may keep its weights elsewhere."""
        place = getattr(getattr(self.shared, "_hf_hook", None), "execution_device", None)
        return super().device if place is None else torch.device(place)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """Two users of two passages each, for tools that need something to run the model on."""
        input_ids = torch.tensor([[[7, 6, 1], [5, 1, 0]], [[3, 4, 1], [0, 0, 0]]], device=self.device)
        return {"input_ids": input_ids, "attention_mask": input_ids.ne(0).long(), "labels": input_ids[:, 0]}

    def encode(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None) -> BaseModelOutput:
        """Encode passages, each on its own, and lay them end to end.

        Args:
            input_ids, attention_mask (B, P, L): as of [`forward`]; padding is not computed, and at one end.

        Returns:
            `last_hidden_state` (B, P * L, d_model); zero at padding.
        """
        return BaseModelOutput(last_hidden_state=self._encode(*read_passages(self.config, input_ids, attention_mask)))

    def _encode(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        batch_size, num_passages, length = input_ids.shape
        states = encode_packed(self.encoder, input_ids.flatten(0, 1), attention_mask.flatten(0, 1))  # (T, d)
        rows = attention_mask.flatten().nonzero().flatten()  # (T,)
        states = states + F.embedding(rows // length % num_passages, self.passage_positions)
        fused = states.new_zeros(attention_mask.numel(), states.shape[-1]).index_copy(0, rows, states)
        return fused.view(batch_size, num_passages * length, -1)

    def encode_items(
        self,
        tokenizer,
        folder: str | None = None,
        dtype: str | None = None,
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
            dtype: `"float32"`, `"bfloat16"` (half the size) or `"int8"` (a quarter); by default what the folder's
                encodings are in, and float32 where there are none.
            batch_tokens: most tokens that are encoded at once.
            rows_per_shard: items in a file of the folder; what an interruption may cost.
            processes: an `accelerate.PartialState`; each process encodes its share of the shards, and all wait for all.
            progress: show a bar with the time left.
            overwrite: replace what does not fit.

        Returns:
            The cache; for a folder in shards that are memory-mapped, otherwise on the model's device. In memory it is
            empty where the tokenizer has no item prompts.

        Raises:
            ValueError: a tokenizer of another catalogue than the model's; an unknown `dtype`; without `overwrite`, a
                folder of another encoder, of other item prompts or of another `dtype`; a folder where the tokenizer
                has no item prompts.

        Example:
            >>> item_cache = model.encode_items(tokenizer, progress=False)
            >>> inputs = tokenizer(histories=[["B0003", "B0007"]], item_prompts=False, return_tensors="pt")
            >>> len(model.generate(**inputs, item_cache=item_cache, num_beams=5, num_return_sequences=3))
            3
        """
        if self.item_trie is not None:
            check_catalogue(self, tokenizer, self.name_or_path or "the model")
        if dtype not in (None, *DTYPES):
            raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
        if folder is None:
            return ItemCache.in_memory(self, tokenizer, None, dtype or "float32", batch_tokens, progress)
        options = (dtype, batch_tokens, rows_per_shard, processes, progress, overwrite)
        return ItemCache.update(folder, self, tokenizer, *options)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        history: dict[str, torch.Tensor] | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        soft_targets: dict[str, torch.Tensor] | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs,
    ) -> Seq2SeqLMOutput:
        r"""Score lexical IDs.

        Two forms give the same loss and gradients. The *plain* form takes all passages of every sample. The *grouped*
        form, for training, takes the user prompts alone, and once what samples share: see `history`.

        Args:
            input_ids (B, P, L): the passages; grouped: (N, L), the user prompts of N = G * R samples.
            attention_mask: of the same shape, 0 at padding; by default everything but padding tokens.
            decoder_input_ids (B, T): by default `labels` shifted right.
            decoder_attention_mask (B, T): 0 at their padding.
            labels (B, T): lexical IDs with their end token; -100 is left out of the loss. Grouped: (N * K, T), of each
                sample K targets, one after the other.
            encoder_outputs: what [`encode`] returned for these passages, or a tuple of it, instead of `input_ids`.
            history: the grouped form's items. G groups of R samples each, all prefixes of one user's sequence:
                input_ids, attention_mask (U, L): the unique item prompts;
                items (G, S): the item prompt in each of a group's S slots;
                positions (G, R, S): place of each slot in each sample's history, 1 the newest; 0 where not in it.
            num_items_in_batch: divisor of the summed loss in place of this batch's number of target tokens.
            soft_targets: distributions that the loss takes in place of `labels`, which say where there is one:
                tokens (B, T, F): the tokens that each is over, -1 beyond; under `score_mode` "trie" these alone are
                    possible;
                shares (B, T, F): their shares, which sum to 1.
            decoder_inputs_embeds (B, T, d_model): in place of `decoder_input_ids`.
            past_key_values, use_cache: as T5 takes them.
            output_attentions, output_hidden_states: the decoder's; the encoder's passages are not held padded.
            kwargs: `return_dict`; `excluded_items` of [`generate`], which trainers hand on with a batch, means nothing;
                everything else is refused.

        Returns:
            `loss` (mean cross-entropy of the target tokens) where there are labels, `logits` (B, T, vocab_size); the
            grouped form gives the loss or, without labels, the logits, which it never holds all at once.

        Raises:
            ValueError: an argument of an impossible shape or value; one that the form has no use for.
            TypeError: an argument of another type, or an unknown one.
        """
        of_decoder = {
            "attention_mask": decoder_attention_mask,
            "inputs_embeds": decoder_inputs_embeds,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        of_decoder = {name: value for name, value in of_decoder.items() if value is not None}
        unknown = [name for name, value in kwargs.items() if value is not None and name not in OF_GENERATE]
        if unknown:
            raise TypeError(f"forward() has no use for the argument {unknown[0]!r}, and refuses it")
        if output_attentions and self.decoder.config._attn_implementation != "eager":
            raise ValueError('`output_attentions` needs `attn_implementation="eager"`, given when the model is loaded')
        if history is not None:
            needless = [name for name, value in of_decoder.items() if value is not False]
            if needless or encoder_outputs is not None:
                raise ValueError(f"with `history`, forward() has no use for {[*needless, 'encoder_outputs'][0]!r}")
            of_loss = (num_items_in_batch, soft_targets)
            return self._forward_grouped(input_ids, attention_mask, decoder_input_ids, labels, history, *of_loss)
        if encoder_outputs is None:
            input_ids, mask = read_passages(self.config, input_ids, attention_mask)
        else:
            states, mask = read_encoded(self.config, encoder_outputs, input_ids, attention_mask)
        decoder_inputs = (decoder_input_ids, decoder_inputs_embeds, decoder_attention_mask, past_key_values)
        labels = read_targets(self.config, len(mask), labels, *decoder_inputs)
        soft_targets = read_soft_targets(self.config, labels, soft_targets)
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self._shift_right(labels)
        if encoder_outputs is None:
            states = self._encode(input_ids, mask)
        decoded = self.decoder(
            input_ids=decoder_input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask.flatten(1),
            return_dict=True,
            **of_decoder,
        )
        logits = self._logits(decoded.last_hidden_state)
        loss = None
        if labels is not None and (soft_targets is not None or self.config.score_mode == "trie"):
            loss = target_loss(self, decoded.last_hidden_state, labels, num_items_in_batch, soft_targets)
        elif labels is not None:  # -100 is what cross_entropy leaves out
            loss = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")
            loss = loss / ((labels >= 0).sum() if num_items_in_batch is None else num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=decoded.get("past_key_values"),
            decoder_hidden_states=decoded.get("hidden_states"),
            decoder_attentions=decoded.get("attentions"),
            cross_attentions=decoded.get("cross_attentions"),
            encoder_last_hidden_state=states,
        )

    def _forward_grouped(
        self, input_ids, attention_mask, decoder_input_ids, labels, history, num_items, soft_targets
    ) -> Seq2SeqLMOutput:
        input_ids, mask = read_passages(self.config, input_ids, attention_mask, ("samples", "tokens"))
        history = read_history(self.config, len(mask), history)
        targets = decoder_input_ids if labels is None else labels
        each = max(len(targets) // len(mask), 1) if isinstance(targets, torch.Tensor) else 1  # of a sample
        labels = read_targets(self.config, each * len(mask), labels, decoder_input_ids)
        soft_targets = read_soft_targets(self.config, labels, soft_targets)
        if decoder_input_ids is None:
            decoder_input_ids = self._shift_right(labels)
        if labels is not None and self.config.score_mode == "trie":
            num_items = (labels >= 0).sum() if num_items is None else num_items
            soft_targets = soft_targets or shares_of(self, labels)
            places = places_to_decode(soft_targets["tokens"])
            soft_targets = {name: values[:, :places] for name, values in soft_targets.items()}
            labels, decoder_input_ids = labels[:, :places], decoder_input_ids[:, :places]
        states = decode_grouped(self, input_ids, mask, decoder_input_ids, history)
        if labels is None:
            return Seq2SeqLMOutput(logits=self._logits(states))
        return Seq2SeqLMOutput(loss=target_loss(self, states, labels, num_items, soft_targets))

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return self.lm_head(states * self.model_dim**-0.5 if self.config.scale_decoder_outputs else states)


__all__ = ["GramForConditionalGeneration", "GramGenerateOutput", "ItemTrie"]
