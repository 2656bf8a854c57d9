"""Hierarchical k-means over item vectors: the tree whose nodes the lexical IDs name (paper, section 3.1)."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits


def cluster_hierarchy(vectors: np.ndarray, num_clusters: int, depth: int, seed: int = 0) -> np.ndarray:
    """Split the items into clusters, and every cluster of more than `num_clusters` items again, down to `depth`.

    In a cluster of at most `num_clusters` items, or of items that k-means cannot tell apart, each item gets a leaf of
    its own. At `depth` splitting ends, and items may share their last node. Each node's k-means has a seed of its
    own, made of `seed` and the node's path, so that a part of the tree does not depend on the rest of it.

    Args:
        vectors: (N, d) float.
        num_clusters: `c`, at least 2.
        depth: `l`, at least 1.
        seed: not negative.

    Returns:
        (N, depth) int32: the number of each item's node among its siblings, level by level from the root's children
        down; -1 below an item's leaf.
    """
    paths = np.full((len(vectors), depth), -1, dtype=np.int32)
    unsplit = [(np.arange(len(vectors)), ())]  # items of a node, and its path
    with threadpool_limits(limits=1):  # sums in an order that does not depend on the number of cores
        while unsplit:
            items, path = unsplit.pop()
            level = len(path)
            if level == depth:
                continue
            labels = np.zeros(len(items), dtype=np.int32)
            if len(items) > num_clusters:
                labels = _k_means(vectors[items], num_clusters, [seed, *path])
            if labels.max(initial=0) == 0:
                paths[items, level] = np.arange(len(items))
                continue
            paths[items, level] = labels
            order = np.argsort(labels, kind="stable")
            parts = np.split(items[order], np.flatnonzero(np.diff(labels[order])) + 1)
            unsplit.extend((part, (*path, label)) for label, part in enumerate(parts) if len(part) > 1)
    return paths


def _k_means(vectors: np.ndarray, num_clusters: int, entropy: list[int]) -> np.ndarray:
    """(n,) int32 labels 0 .. k-1, every one in use; k is smaller than `num_clusters` where vectors coincide."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters
        labels = KMeans(num_clusters, n_init=1, random_state=seed).fit_predict(vectors)
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)
