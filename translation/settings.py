"""What a user may choose about the translation of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

BUILT_IN_ENCODER = "tfidf-svd"
SASREC, ITEM_KNN = "sasrec", "item-knn"
LEXICAL, CODES = "lexical", "codes"
MAX_CODEBOOKS = 25  # a letter each, and one for the token that tells apart items of equal codes

# The least and the most of each. Beyond the most nothing is gained: a prompt holds some hundred tokens, a machine has
# some hundred processors.
_BOUNDS: dict[str, tuple[int, float]] = {
    **{"num_clusters": (2, inf), "depth": (1, 100), "num_codebooks": (1, MAX_CODEBOOKS), "codebook_size": (2, 1 << 16)},
    **{"num_similar": (0, 1000), "encoder_max_length": (1, inf), "max_fan_out": (2, inf), "vocab_size": (32, 1 << 20)},
    **{"sasrec_dim": (2, 1 << 12), "sasrec_epochs": (1, inf), "num_workers": (1, 1024), "seed": (0, inf)},
}


@dataclass
class TranslationSettings:
    """Settings of the semantic-to-lexical translation; the paper's values for Beauty are the defaults.

    Attributes:
        num_clusters: `c`, how many parts a cluster is split into, and how many items a cluster may have unsplit.
        depth: `l`, the tokens of a lexical ID, suffix aside.
        hierarchy: spell lexical IDs along a tree of clusters; without it every item's ID is its own most telling
            tokens, the heaviest first, whatever the others are called: neither an encoder nor `max_fan_out` counts.
        id_tokens: what IDs are made of: `"lexical"`, words of the vocabulary, or `"codes"`, tokens of their own for the
            codes of a residual k-means over the item vectors, as a baseline without words.
        num_codebooks: levels of the codes; one more token tells apart the items of equal codes.
        codebook_size: codes of each level.
        num_similar: how many similar items every item gets.
        encoder: `"tfidf-svd"`, built in, or the name or path of a sentence-transformers model.
        encoder_prompt: what a sentence-transformers model reads before every text, such as an instruction.
        encoder_max_length: the most tokens of a text that it reads; none: as many as the model was made for.
        encoder_append_eos: end every text with the encoder's end token, and pad behind it, as NV-Embed wants it.
        encoder_trust_remote_code: let it run the code that comes with the model.
        vectors: file of given item vectors instead of an encoder: `.npy` or `.safetensors` (one array) in the order of
            the items, or `.parquet` with the columns `item_id` and `vector`.
        max_fan_out: the most tokens that may follow one beginning of a lexical ID.
        blocked_tokens: file of words that no lexical ID may show, one per line.
        vocab_size: size of the vocabulary that is trained where no tokenizer is given.
        lexical_ids: file of given lexical IDs, `ITEM |token|token...` per line, instead of building them.
        similar_items: where similar items come from: `"sasrec"`, `"item-knn"`, or a file: `.parquet` with the columns
            `item_id` and `similar_items` (a list, nearest first), or the authors' text form.
        sasrec_dim: width of the SASRec.
        sasrec_epochs: how often it sees the training part.
        num_workers: processes that cluster; any number gives the same IDs.
        seed: of clustering, of the built-in encoder and of the SASRec.

    Raises:
        ValueError: a value that cannot be, with the name of its field.
    """

    num_clusters: int = 128
    depth: int = 7
    hierarchy: bool = True
    id_tokens: str = LEXICAL
    num_codebooks: int = 3
    codebook_size: int = 256
    num_similar: int = 10
    encoder: str = BUILT_IN_ENCODER
    encoder_prompt: str = ""
    encoder_max_length: int | None = None
    encoder_append_eos: bool = False
    encoder_trust_remote_code: bool = False
    vectors: str | None = None
    max_fan_out: int = 1024
    blocked_tokens: str | None = None
    vocab_size: int = 8000
    lexical_ids: str | None = None
    similar_items: str = SASREC
    sasrec_dim: int = 64
    sasrec_epochs: int = 20
    num_workers: int = 1
    seed: int = 0

    def __post_init__(self):
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if name == "encoder_max_length" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
            if value > most:
                raise ValueError(f"{name} is {value}; it must be at most {most}")
        if not isinstance(self.encoder, str) or not self.encoder.strip():
            raise ValueError(f"encoder is {self.encoder!r}; it must be {BUILT_IN_ENCODER!r} or a model's name or path")
        if self.id_tokens not in (LEXICAL, CODES):
            raise ValueError(f"id_tokens is {self.id_tokens!r}; it must be {LEXICAL!r} or {CODES!r}")
        if self.id_tokens == CODES and self.lexical_ids is not None:
            raise ValueError(f"lexical_ids is a file of IDs in words; leave it out, or give id_tokens {LEXICAL!r}")
        if self.max_fan_out < self.num_clusters:
            raise ValueError(
                f"max_fan_out is {self.max_fan_out}; it must be at least num_clusters, {self.num_clusters}"
            )
