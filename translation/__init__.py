"""Semantic-to-lexical translation: what each item is called in words of the vocabulary, and what is similar to it."""

from .catalogue import SASREC_FILE, Translation, translate
from .report import TreeStatistics, write_report
from .settings import TranslationSettings
from .tokenizer_folder import train_vocabulary

__all__ = [
    "SASREC_FILE",
    "Translation",
    "TranslationSettings",
    "TreeStatistics",
    "train_vocabulary",
    "translate",
    "write_report",
]
