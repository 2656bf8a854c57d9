"""Configuration of GRAM."""

import math

from huggingface_hub.dataclasses import strict
from transformers import T5Config

from .loading_gram import CHECKSUMS, check_checksums

MOST_LAYERS = 1000  # of either stack; far more than anybody trains, and few enough to be built and refused at once
SCORE_MODES = ("vocabulary", "trie")


@strict
class GramConfig(T5Config):
    r"""Configuration of [`GramForConditionalGeneration`]: every field of [`~transformers.T5Config`] and these.

    Args:
        max_history (`int`, *optional*, defaults to 20):
            Most items of a history that the model reads; the passage position embedding has `max_history + 1` rows.
        passage_position (`bool`, *optional*, defaults to `True`):
            Whether a passage's encoding tells its place in the history; without it the passages are a set, and the
            passage position embedding stays zero.
        trie_num_items, trie_num_nodes, trie_depth (`int`, *optional*, default to 0):
            Shape of the item trie saved with the checkpoint: items of the catalogue, nodes, tokens of the longest
            lexical ID with its end token. 0 where the model has no trie; set by `set_item_trie`.
        repeats (`bool`, *optional*, defaults to `True`):
            Whether a user may have an item again. A training sets it: `False` where nobody in the training part does,
            and then `gram evaluate` holds nothing of a history for possible. Who recommends says with `exclude_seen`.
        score_mode (`str`, *optional*, defaults to `"vocabulary"`):
            What a token's probability is over, in the loss and in the scores of items: `"vocabulary"`, as in T5, or
            `"trie"`, the tokens that the trie allows in its place.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`):
            Whether the output head shares the input embeddings' weights (T5), or has its own (T5 v1.1, mT5).
        scale_decoder_outputs (`bool`, *optional*):
            Whether decoder states are scaled by `d_model**-0.5` before the head; defaults to `tie_word_embeddings`.

    Raises:
        huggingface_hub.errors.StrictDataclassError: a field has the wrong type or an impossible value; the message
            names the field.

    Example:
        >>> from gram import GramConfig
        >>> GramConfig(d_model=64, max_history=10).max_history
        10
    """

    model_type = "gram"

    max_history: int = 20
    passage_position: bool = True
    trie_num_items: int = 0
    trie_num_nodes: int = 0
    trie_depth: int = 0
    repeats: bool = True
    score_mode: str = "vocabulary"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        tied, scaled = self.tie_word_embeddings, self.scale_decoder_outputs
        model = "modeling_gram.GramForConditionalGeneration"
        classes = {"AutoConfig": "configuration_gram.GramConfig", "AutoModel": model, "AutoModelForSeq2SeqLM": model}
        pipeline = {"impl": "pipeline_gram.GenerativeRecommendationPipeline", "pt": ["AutoModelForSeq2SeqLM"]}
        kwargs.setdefault("auto_map", classes)
        kwargs.setdefault("custom_pipelines", {"generative-recommendation": pipeline})
        super().__post_init__(**kwargs)
        # T5Config overwrites both: it always ties, and scales unless it is told not to tie.
        self.tie_word_embeddings = tied
        self.scale_decoder_outputs = tied if scaled is None else scaled

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """A configuration from what stands in `config.json`; see [`~transformers.PreTrainedConfig.from_dict`].

        Raises:
            ValueError: it was changed after the model was saved.
        """
        settings = {name: value for name, value in config_dict.items() if name != CHECKSUMS}
        config = super().from_dict(settings, **kwargs)  # first, as it can say what is wrong
        check_checksums("config.json", config_dict)
        return config

    def validate_gram(self):
        """Check the values of all fields that the model depends on; run by `strict` after every construction."""
        at_least_one = (
            *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"),
            *("relative_attention_num_buckets", "relative_attention_max_distance", "max_history"),
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
            if "_layers" in name and getattr(self, name) > MOST_LAYERS:
                raise ValueError(f"`{name}` must be at most {MOST_LAYERS}, got {getattr(self, name)}")
        for name in ("trie_num_items", "trie_num_nodes", "trie_depth"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must not be negative, got {getattr(self, name)}")
        shape = (self.trie_num_items, self.trie_num_nodes, self.trie_depth)
        if any(shape) and not all(shape):
            raise ValueError(f"`trie_num_items`, `trie_num_nodes`, `trie_depth` must all be 0, or none, got {shape}")
        if self.score_mode not in SCORE_MODES:
            raise ValueError(f"`score_mode` must be one of {', '.join(SCORE_MODES)}, got {self.score_mode!r}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"`dropout_rate` must be at least 0 and below 1, got {self.dropout_rate}")
        for name in ("layer_norm_epsilon", "initializer_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}")
        for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id"):
            token = getattr(self, name)
            if not isinstance(token, int) or not 0 <= token < self.vocab_size:
                raise ValueError(f"`{name}` must be a token id below `vocab_size` ({self.vocab_size}), got {token}")


GramConfig.register_for_auto_class()

__all__ = ["GramConfig"]
