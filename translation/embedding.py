"""Item texts to vectors: the built-in encoder, or any sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from .settings import BUILT_IN_ENCODER

_WORDS = r"(?u)\w+|[^\w\s\x00-\x7f]"  # words, and each emoji or other symbol beyond ASCII


def embed_texts(
    texts: Sequence[str], encoder: str = BUILT_IN_ENCODER, seed: int = 0, progress: bool = True
) -> np.ndarray:
    """One vector per text.

    Args:
        texts: N texts.
        encoder: `"tfidf-svd"`, which needs no download, or the name or path of a sentence-transformers model.
        seed: of the built-in encoder.
        progress: show a sentence-transformers model's progress bar.

    Returns:
        (N, d) float32, each row of length 1 (or 0, where the built-in encoder finds no word in a text).

    Raises:
        ValueError: sentence-transformers is asked for but not installed, or has no such model.
    """
    if encoder == BUILT_IN_ENCODER:
        return tfidf_svd(texts, seed=seed)
    return _sentence_transformer(texts, encoder, progress)


def tfidf_svd(texts: Sequence[str], dimensions: int = 128, seed: int = 0) -> np.ndarray:
    """Latent semantic analysis: TF-IDF of the texts' words, then a truncated singular value decomposition.

    Args:
        texts: N texts.
        dimensions: of the vectors; fewer where the texts span fewer.
        seed: of the randomised decomposition.

    Returns:
        (N, d <= dimensions) float32, rows of length 1, or 0 for a text without words.
    """
    vectorizer = TfidfVectorizer(token_pattern=_WORDS, sublinear_tf=True, dtype=np.float64)
    try:
        counts = vectorizer.fit_transform(texts)  # (N, words)
    except ValueError:  # no text has a word
        return np.zeros((len(texts), 1), dtype=np.float32)
    with threadpool_limits(limits=1):  # sums in an order that does not depend on the number of cores
        if min(counts.shape) > dimensions:
            left, strengths, _ = randomized_svd(counts, dimensions, random_state=seed)
            vectors = left * strengths
        elif counts.shape[1] <= dimensions:
            vectors = counts.toarray()
        else:
            left, strengths, _ = np.linalg.svd(counts.toarray(), full_matrices=False)
            vectors = left * strengths
    return _unit_length(vectors)


def _unit_length(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def _sentence_transformer(texts: Sequence[str], name: str, progress: bool) -> np.ndarray:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ValueError(
            f"encoder {name!r} needs sentence-transformers; pip install 'gram-recommender[sentence-transformers]', "
            f"or choose {BUILT_IN_ENCODER!r}"
        ) from None
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"encoder {name!r} cannot be loaded ({first_line}); give a model's name or path") from None
    vectors = model.encode(list(texts), show_progress_bar=progress, convert_to_numpy=True)
    return _unit_length(np.asarray(vectors, dtype=np.float64))
