"""What a user may choose about the translation of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from ..common.settings import Settings, within

BUILT_IN_ENCODER = "tfidf-svd"
SASREC, ITEM_KNN = "sasrec", "item-knn"
LEXICAL, CODES = "lexical", "codes"
MAX_CODEBOOKS = 25  # a letter each, and one for the token that tells apart items of equal codes


@dataclass
class TranslationSettings(Settings):
    """Settings of the semantic-to-lexical translation; the paper's values for Beauty are the defaults.

    Attributes:
        num_clusters: `c`, how many parts a cluster is split into, and how many items a cluster may have unsplit;
            without it the power of two that is nearest to the root of the number of items.
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
        sasrec_num_layers: its transformer blocks.
        sasrec_epochs: how often it sees the training part.
        sasrec_max_length: how many of a user's latest items it reads.
        sasrec_dropout: its dropout; less of it suits users with long histories.
        sasrec_negatives: items that it learns to tell each batch's targets from.
        sasrec_texts: let it know the item vectors, which tell most of items with few interactions.
        sasrec_in_clusters: its share in what items are clustered by, beside their vectors; the fewer interactions an
            item has in training, the smaller.
        num_workers: processes that cluster; any number gives the same IDs.
        seed: of clustering, of the built-in encoder and of the SASRec.
    """

    # Beyond `most` nothing is gained: a prompt holds some hundred tokens, a machine some hundred processes.
    num_clusters: int | None = within(128, least=2)
    depth: int = within(7, least=1, most=100)
    hierarchy: bool = True
    id_tokens: str = within(LEXICAL, one_of=(LEXICAL, CODES))
    num_codebooks: int = within(3, least=1, most=MAX_CODEBOOKS)
    codebook_size: int = within(256, least=2, most=1 << 16)
    num_similar: int = within(10, least=0, most=1000)
    encoder: str = BUILT_IN_ENCODER
    encoder_prompt: str = ""
    encoder_max_length: int | None = within(None, least=1)
    encoder_append_eos: bool = False
    encoder_trust_remote_code: bool = False
    vectors: str | None = None
    max_fan_out: int = within(1024, least=2)
    blocked_tokens: str | None = None
    vocab_size: int = within(8000, least=32, most=1 << 20)
    lexical_ids: str | None = None
    similar_items: str = SASREC
    sasrec_dim: int = within(64, least=2, most=1 << 12)
    sasrec_num_layers: int = within(2, least=1, most=256)
    sasrec_epochs: int = within(20, least=1)
    sasrec_max_length: int = within(50, least=1)
    sasrec_dropout: float = within(0.5, least=0, below=1)
    sasrec_negatives: int = within(1024, least=1)
    sasrec_texts: bool = False
    sasrec_in_clusters: float = within(0.0, least=0, most=1)
    num_workers: int = within(1, least=1, most=1024)
    seed: int = within(0, least=0)

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.encoder, str) or not self.encoder.strip():
            raise ValueError(f"encoder is {self.encoder!r}; it must be {BUILT_IN_ENCODER!r} or a model's name or path")
        if self.id_tokens == CODES and self.lexical_ids is not None:
            raise ValueError(f"lexical_ids is a file of IDs in words; leave it out, or give id_tokens {LEXICAL!r}")
        if self.sasrec_in_clusters and not self.has_sasrec:
            raise ValueError(
                f"sasrec_in_clusters is {self.sasrec_in_clusters}, and there is no SASRec; leave it out, or give "
                f"similar_items {SASREC!r} and a num_similar above 0"
            )
        if self.num_clusters is not None and self.max_fan_out < self.num_clusters:
            raise ValueError(
                f"max_fan_out is {self.max_fan_out}; it must be at least num_clusters, {self.num_clusters}"
            )

    @property
    def has_sasrec(self) -> bool:
        """Whether the similar items are those of a SASRec that is fitted for the translation."""
        return self.similar_items == SASREC and self.num_similar > 0
