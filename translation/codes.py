"""Semantic IDs as codes: residual k-means over item vectors, each code a token of its own.

Source: TIGER (Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023), with k-means in the place of
its residual-quantised autoencoder.
"""

from __future__ import annotations

from string import ascii_lowercase

import numpy as np
from tqdm.auto import tqdm

from .hierarchy import k_means


def residual_codes(
    vectors: np.ndarray, num_codebooks: int, codebook_size: int, seed: int = 0, progress: bool = False
) -> np.ndarray:
    """Cluster the vectors (N, d), then what the nearest centroids leave over of them, and so on.

    Gives (N, L) int32 for the L levels of `num_codebooks`, each from 0 up to `codebook_size` - 1. Every level has a
    seed of its own, made of `seed`, which is not negative.

    Raises:
        ValueError: there are fewer items than codes.
    """
    if codebook_size > len(vectors):
        raise ValueError(
            f"codebook_size is {codebook_size}; it must be at most the number of items, {len(vectors)}, as every code "
            "stands for some of them"
        )
    residuals = np.array(vectors, dtype=np.float32, order="C")
    codes = np.zeros((len(residuals), num_codebooks), dtype=np.int32)
    for level in tqdm(range(num_codebooks), "codebooks", disable=not progress, leave=False):
        codes[:, level], centroids = k_means(residuals, codebook_size, [seed, level])
        residuals -= centroids[codes[:, level]]
    return codes


def code_ids(codes: np.ndarray) -> list[list[str]]:
    """Every item's ID: its codes (N, L), and a last token that counts the items of the same ones in catalogue order.

    Example:
        >>> code_ids(np.array([[5, 0], [5, 2], [5, 0]]))
        [['<a_5>', '<b_0>', '<c_0>'], ['<a_5>', '<b_2>', '<c_0>'], ['<a_5>', '<b_0>', '<c_1>']]
    """
    seen: dict[tuple[int, ...], int] = {}
    named = []
    for path in map(tuple, codes.tolist()):
        seen[path] = seen.get(path, -1) + 1
        named.append([code_token(level, number) for level, number in enumerate((*path, seen[path]))])
    return named


def code_tokens(codes: np.ndarray, codebook_size: int) -> list[str]:
    """All tokens that IDs of such codes are made of, level by level: `codebook_size` for each level.

    The last level has more where more items have the same codes.
    """
    most = int(np.unique(codes, axis=0, return_counts=True)[1].max())
    sizes = [codebook_size] * codes.shape[1] + [max(codebook_size, most)]
    return [code_token(level, number) for level, size in enumerate(sizes) for number in range(size)]


def code_token(level: int, number: int) -> str:
    """The token of a code, such as `<b_17>` for code 17 of the second level, which is level 1."""
    return f"<{ascii_lowercase[level]}_{number}>"
