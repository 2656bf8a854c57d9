"""Similar items from other sources than a SASRec: who has them, another tool's file, and large catalogues."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gram.collaborative.neighbours import nearest_items
from gram.collaborative.together import items_bought_together
from gram.data import Interactions
from gram.translation.given import read_similar_items
from gram.translation.hierarchy import cluster_hierarchy


@settings(max_examples=40)
@given(
    sequences=st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=12),
    k=st.integers(1, 12),
)
def test_items_bought_together_are_those_of_the_whole_cosine_matrix(sequences, k):
    users = [f"u{user}" for user in range(len(sequences))]
    found = items_bought_together(Interactions.from_sequences(users, sequences), 10, k)
    has = np.array([[item in sequence for item in range(10)] for sequence in sequences], dtype=float)
    norms = np.maximum(np.linalg.norm(has, axis=0), 1)
    cosines = (has.T @ has / norms / norms[:, None]).round(12)
    for item in range(10):
        others = [other for other in range(10) if other != item and cosines[item, other] > 0]
        expected = sorted(others, key=lambda other: (-cosines[item, other], other))[:k]
        assert found[item].tolist() == expected + [-1] * (k - len(expected))


def test_large_catalogues_are_searched_by_cells(monkeypatch):
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(40, 16))
    vectors = (centres[draw.integers(40, size=4000)] + 0.3 * draw.normal(size=(4000, 16))).astype(np.float32)
    exact = nearest_items(vectors, 5)
    monkeypatch.setattr("gram.collaborative.neighbours.EXACT_ITEMS", 1000)
    monkeypatch.setattr("gram.collaborative.neighbours.CELLS_PROBED", 4)
    found = nearest_items(vectors, 5)
    assert not (found == np.arange(4000)[:, None]).any()
    assert (found >= 0).all()
    shared = [len(set(one) & set(two)) for one, two in zip(exact.tolist(), found.tolist(), strict=True)]
    assert np.mean(shared) > 4.5
    assert np.array_equal(nearest_items(vectors, 5), found)


def write(path, rows):
    pq.write_table(pa.table({"item_id": [row[0] for row in rows], "similar_items": [row[1] for row in rows]}), path)
    return path


def test_neighbours_of_another_tool(tmp_path):
    path = write(tmp_path / "n.parquet", [("c", ["a", "b"]), ("a", ["b"])])
    assert read_similar_items(path, ["a", "b", "c"]).tolist() == [[1, -1], [-1, -1], [0, 1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", ["b"]), ("x", ["b"])], "row 2: item x is not in the catalogue"),
        ([("a", ["y"])], "row 1: item y is not in the catalogue"),
        ([("a", ["b"]), ("a", ["c"])], "row 2: item a has a row already"),
        ([("a", ["b", "b"])], "row 1: an item stands twice"),
        ([("a", ["a"])], "row 1: an item stands twice"),
    ],
)
def test_neighbours_that_cannot_be_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_similar_items(write(tmp_path / "n.parquet", rows), ["a", "b", "c"])


def test_a_file_that_holds_no_neighbours_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"n\.parquet"):
        read_similar_items(tmp_path / "n.parquet", ["a"])
    (tmp_path / "n.parquet").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no Parquet file of ids"):
        read_similar_items(tmp_path / "n.parquet", ["a"])
    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "n.parquet")
    with pytest.raises(ValueError, match="needs one column similar_items"):
        read_similar_items(tmp_path / "n.parquet", ["a"])


@pytest.mark.parametrize("use", ["neighbours", "clusters"])
def test_faiss_keeps_its_threads(use, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr("gram.collaborative.neighbours.EXACT_ITEMS", 1000)
    monkeypatch.setattr("gram.translation.hierarchy.FAISS_ITEMS", 1000)
    vectors = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        nearest_items(vectors, 2) if use == "neighbours" else cluster_hierarchy(vectors, 4, 1)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
