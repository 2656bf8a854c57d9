"""Semantic-to-lexical translation: what each item is called in words of the vocabulary, and what is similar to it."""

from ..common.lazy import lazy

_HOMES = {
    "SASREC_FILE": ".catalogue",
    "Translation": ".catalogue",
    "TranslationSettings": ".settings",
    "TreeStatistics": ".report",
    "train_vocabulary": ".tokenizer_folder",
    "translate": ".catalogue",
    "write_report": ".report",
}

__all__ = sorted(_HOMES)

__getattr__ = lazy(__name__, _HOMES)
