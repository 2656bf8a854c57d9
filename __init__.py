"""GRAM: a generative recommender via semantic-aware multi-granular late fusion, native to HuggingFace transformers.

Everything is imported on first use: the root of the repository is this package, and tools that walk it must not load
torch.
"""

from .common.lazy import lazy

__version__ = "0.1.0"

_HOMES = {
    "GenerativeRecommendationPipeline": ".pipeline_gram",
    "GramConfig": ".configuration_gram",
    "GramDataCollator": ".training.collator",
    "GramForConditionalGeneration": ".modeling_gram",
    "GramTokenizer": ".tokenization_gram",
    "ItemTrie": ".trie_gram",
    "ranking_compute_metrics": ".evaluation.rankings",
}

__all__ = sorted(_HOMES)


__getattr__ = lazy(__name__, _HOMES)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
