"""What a user may choose about the translation of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass

BUILT_IN_ENCODER = "tfidf-svd"


@dataclass
class TranslationSettings:
    """Settings of the semantic-to-lexical translation; the paper's values for Beauty are the defaults.

    Attributes:
        num_clusters: `c`, how many parts a cluster is split into, and how many items a cluster may have unsplit.
        depth: `l`, the tokens of a lexical ID, suffix aside.
        num_similar: how many similar items every item gets.
        encoder: `"tfidf-svd"`, built in, or the name or path of a sentence-transformers model.
        vocab_size: size of the vocabulary that is trained where no tokenizer is given.
        use_lexical_ids: take `lexical_ids.txt` of the data folder instead of building IDs.
        use_similar_items: take `similar_items.txt` of the data folder instead of training a SASRec.
        seed: of clustering, of the built-in encoder and of the SASRec.

    Raises:
        ValueError: a value that cannot be, with the name of its field.
    """

    num_clusters: int = 128
    depth: int = 7
    num_similar: int = 10
    encoder: str = BUILT_IN_ENCODER
    vocab_size: int = 8000
    use_lexical_ids: bool = False
    use_similar_items: bool = False
    seed: int = 0

    def __post_init__(self):
        for name, least in (("num_clusters", 2), ("depth", 1), ("num_similar", 0), ("vocab_size", 32), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        if not isinstance(self.encoder, str) or not self.encoder.strip():
            raise ValueError(f"encoder is {self.encoder!r}; it must be {BUILT_IN_ENCODER!r} or a model's name or path")
