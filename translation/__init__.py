"""Semantic-to-lexical translation: what each item is called in words of the vocabulary, and what is similar to it."""

from .catalogue import SASREC_FILE, Translation, translate
from .collaborative import fit_or_load, fit_sasrec
from .neighbours import nearest_items
from .report import write_report
from .sasrec import SASRec, SASRecSettings
from .settings import TranslationSettings
from .statistics import TreeStatistics
from .vocabulary import train_vocabulary

__all__ = [
    "SASREC_FILE",
    "SASRec",
    "SASRecSettings",
    "Translation",
    "TranslationSettings",
    "TreeStatistics",
    "fit_or_load",
    "fit_sasrec",
    "nearest_items",
    "train_vocabulary",
    "translate",
    "write_report",
]
