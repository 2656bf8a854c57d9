"""What a user may choose about the translation of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass

BUILT_IN_ENCODER = "tfidf-svd"
SASREC, ITEM_KNN = "sasrec", "item-knn"

_LEAST = {
    "num_clusters": 2,
    "depth": 1,
    "num_similar": 0,
    "max_fan_out": 2,
    "vocab_size": 32,
    "num_workers": 1,
    "seed": 0,
}


@dataclass
class TranslationSettings:
    """Settings of the semantic-to-lexical translation; the paper's values for Beauty are the defaults.

    Attributes:
        num_clusters: `c`, how many parts a cluster is split into, and how many items a cluster may have unsplit.
        depth: `l`, the tokens of a lexical ID, suffix aside.
        num_similar: how many similar items every item gets.
        encoder: `"tfidf-svd"`, built in, or the name or path of a sentence-transformers model.
        encoder_prompt: what a sentence-transformers model reads before every text, such as an instruction.
        encoder_max_length: the most tokens of a text that it reads; none: as many as the model was made for.
        encoder_trust_remote_code: let it run the code that comes with the model.
        vectors: file of given item vectors instead of an encoder: `.npy` or `.safetensors` (one array) in the order of
            the items, or `.parquet` with the columns `item_id` and `vector`.
        max_fan_out: the most tokens that may follow one beginning of a lexical ID.
        blocked_tokens: file of words that no lexical ID may show, one per line.
        vocab_size: size of the vocabulary that is trained where no tokenizer is given.
        lexical_ids: file of given lexical IDs, `ITEM |token|token...` per line, instead of building them.
        similar_items: where similar items come from: `"sasrec"`, `"item-knn"`, or a file: `.parquet` with the columns
            `item_id` and `similar_items` (a list, nearest first), or the authors' text form.
        num_workers: processes that cluster; any number gives the same IDs.
        seed: of clustering, of the built-in encoder and of the SASRec.

    Raises:
        ValueError: a value that cannot be, with the name of its field.
    """

    num_clusters: int = 128
    depth: int = 7
    num_similar: int = 10
    encoder: str = BUILT_IN_ENCODER
    encoder_prompt: str = ""
    encoder_max_length: int | None = None
    encoder_trust_remote_code: bool = False
    vectors: str | None = None
    max_fan_out: int = 1024
    blocked_tokens: str | None = None
    vocab_size: int = 8000
    lexical_ids: str | None = None
    similar_items: str = SASREC
    num_workers: int = 1
    seed: int = 0

    def __post_init__(self):
        least_values = dict(_LEAST) if self.encoder_max_length is None else {**_LEAST, "encoder_max_length": 1}
        for name, least in least_values.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if not isinstance(self.encoder, str) or not self.encoder.strip():
            raise ValueError(f"encoder is {self.encoder!r}; it must be {BUILT_IN_ENCODER!r} or a model's name or path")
        if self.max_fan_out < self.num_clusters:
            raise ValueError(
                f"max_fan_out is {self.max_fan_out}; it must be at least num_clusters, {self.num_clusters}"
            )
