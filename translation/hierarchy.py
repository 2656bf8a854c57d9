"""Hierarchical k-means over item vectors: the tree whose nodes the lexical IDs name (paper, section 3.1)."""

from __future__ import annotations

import os
import warnings

import numpy as np
from tqdm.auto import tqdm

from ..common.extras import needs

with needs("train"):
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

FAISS_ITEMS = 100_000  # from here on scikit-learn's k-means takes minutes, and faiss's, on a sample, seconds
FAISS_ITERATIONS = 25


def cluster_hierarchy(
    vectors: np.ndarray, num_clusters: int, depth: int, seed: int = 0, num_workers: int = 1, progress: bool = False
) -> np.ndarray:
    """Split the items into clusters, and every cluster of more than `num_clusters` items again, down to `depth`.

    In a cluster of at most `num_clusters` items each item gets a leaf of its own. Items that k-means cannot tell apart
    are split evenly in catalogue order, so that no node ever has more than `num_clusters` children. At `depth`
    splitting ends, and items may share their last node. Each node's k-means has a seed of its own, made of `seed` and
    the node's path, so that a part of the tree depends neither on the rest of it nor on who works on it.

    Args:
        vectors: (N, d) float.
        num_clusters, depth: `c`, at least 2, and `l`, at least 1.
        seed: not negative.
        num_workers: processes that split the clusters of a level; any number gives the same.
        progress: show a bar per level.

    Returns:
        (N, depth) int32 paths: the number of each item's node among its siblings, level by level from the root's
        children down; -1 below an item's leaf.
    """
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    paths = np.full((len(vectors), depth), -1, dtype=np.int32)
    level_nodes: list[tuple[tuple[int, ...], np.ndarray]] = [((), np.arange(len(vectors)))]
    for level in range(depth):
        to_split = []
        for path, items in level_nodes:
            if len(items) > num_clusters:
                to_split.append((path, items))
            else:
                paths[items, level] = np.arange(len(items))
        jobs = (
            delayed(_split)(vectors[items], num_clusters, [seed, *path])
            for path, items in tqdm(to_split, f"clusters, level {level + 1}", disable=not progress, leave=False)
        )
        # One cluster alone, as the root is, is not worth the way to another process.
        workers = min(num_workers, len(to_split), os.cpu_count() or 1)
        level_nodes = []
        for (path, items), labels in zip(to_split, Parallel(max(workers, 1))(jobs), strict=True):
            paths[items, level] = labels
            order = np.argsort(labels, kind="stable")
            parts = np.split(items[order], np.flatnonzero(np.diff(labels[order])) + 1)
            level_nodes += [((*path, label), part) for label, part in enumerate(parts) if len(part) > 1]
    if num_workers > 1:
        get_reusable_executor().shutdown()  # idle workers keep memory, and a child process from ending
    return paths


def _split(vectors: np.ndarray, num_clusters: int, entropy: list[int]) -> np.ndarray:
    """(n,) labels 0 .. k-1, each of them in use."""
    labels, centroids = k_means(vectors, num_clusters, entropy)
    return labels if len(centroids) > 1 else np.arange(len(vectors)) * num_clusters // len(vectors)  # all alike


def k_means(vectors: np.ndarray, num_clusters: int, entropy: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cluster (n, d) float32 vectors, by scikit-learn, or by faiss where there are very many.

    Gives (n,) int32 labels 0 .. k-1, each in use, and the (k, d) float32 centres; k is below `num_clusters` where there
    are fewer distinct vectors. The same numbers of `entropy`, which makes the seed, give the same clusters.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    fit = _faiss if len(vectors) > FAISS_ITEMS else _scikit_learn
    labels, centroids = fit(vectors, num_clusters, seed)
    used, labels = np.unique(labels, return_inverse=True)
    return labels.astype(np.int32), centroids[used]


def _scikit_learn(vectors: np.ndarray, num_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) labels and (k, d) float32 centroids."""
    # One thread: sums in an order that does not depend on the number of cores.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct vectors than clusters
        fitted = KMeans(num_clusters, n_init=1, random_state=seed).fit(vectors)
    return fitted.labels_, fitted.cluster_centers_


def _faiss(vectors: np.ndarray, num_clusters: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) labels and (k, d) float32 centroids of a k-means that is fitted to a sample, 256 items to each cluster."""
    with needs("faiss", f"clustering more than {FAISS_ITEMS:,} items"):
        import faiss  # before its threads are limited

    options = {"niter": FAISS_ITERATIONS, "seed": seed % (1 << 31), "verbose": False}
    with threadpool_limits(limits=1):
        fitted = faiss.Kmeans(vectors.shape[1], num_clusters, **options)
        fitted.train(vectors)
        return fitted.index.search(vectors, 1)[1][:, 0], fitted.centroids
