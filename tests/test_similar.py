"""Items that are like an item, and their vectors: `gram similar` and `gram export-vectors`."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from gram import cli
from gram.item_cache_gram import ItemCache
from gram.serving.catalogue_changes import remove_items
from gram.serving.recommendation import Recommender
from gram.serving.similar import SimilarItems, export_vectors


@pytest.fixture(scope="module")
def similar(model, tokenizer):
    return SimilarItems(Recommender(model, tokenizer))


@pytest.fixture(scope="module")
def vectors(model, tokenizer):
    """The plain form: the encoder's output for each item prompt alone, averaged."""
    rows = []
    for prompt in tokenizer.item_prompts:
        states = model.encoder(input_ids=model.dummy_inputs["input_ids"].new_tensor([prompt])).last_hidden_state[0]
        mean = states.detach().numpy().mean(axis=0)
        rows.append(mean / np.linalg.norm(mean))
    return np.stack(rows)


def ids(found):
    return [item.item_id for item in found]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_vectors_are_means_of_encodings(model, tokenizer, vectors, dtype):
    pooled = ItemCache.in_memory(model, tokenizer, dtype=dtype).pooled()
    np.testing.assert_allclose(pooled, vectors, atol=1e-5 if dtype == "float32" else 0.02)


def test_by_text_the_nearest_come_first(similar, tokenizer, vectors):
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    for row in (0, 7, 29):
        found = similar.find(tokenizer.item_ids[row], top_k=5, by="text")
        assert ids(found) == [tokenizer.item_ids[other] for other in np.argsort(-cosines[row])[:5]]
        assert [item.score for item in found] == pytest.approx(np.sort(cosines[row])[::-1][:5].tolist(), abs=1e-5)


def test_by_users_they_are_the_catalogues(similar, tokenizer):
    for row, others in enumerate(tokenizer.catalogue["similar_items"].to_pylist()):
        found = similar.find(tokenizer.item_ids[row], by="users")
        assert ids(found) == others
        assert [item.score for item in found] == [1 / rank for rank in range(1, len(others) + 1)]


def test_both_are_in_both_lists(similar, tokenizer):
    for item in tokenizer.item_ids:
        lists = [ids(similar.find(item, by=by)) for by in ("text", "users")]
        scores = {one: sum(1 / (1 + of.index(one)) for of in lists if one in of) for of in lists for one in of}
        found = similar.find(item, top_k=10)
        assert [one.score for one in found] == pytest.approx(sorted(scores.values(), reverse=True)[:10])
        assert all(one.score == pytest.approx(scores[one.item_id]) for one in found)


def test_an_item_in_no_catalogue_is_like_its_twin(similar, tokenizer):
    fields = dict(part.split(": ", 1) for part in tokenizer.catalogue["text"][4].as_py().split("; "))
    found = similar.find(fields, top_k=len(tokenizer.item_ids), by="both")
    assert len(found) == len(tokenizer.item_ids)
    assert similar.find(fields, by="users") == []


def test_what_may_not_be_recommended_is_not_shown(model_folder, tokenizer, tmp_path):
    remove_items(model_folder, ["B0002", "B0003"], tmp_path / "fewer", progress=False)
    recommender = Recommender.from_pretrained(tmp_path / "fewer")
    recommender.set_available(["B0005"], False)
    similar = SimilarItems(recommender)
    for by in ("text", "both"):
        found = ids(similar.find("B0002", top_k=30, by=by, exclude=["B0006"]))
        assert sorted(found) == [i for i in tokenizer.item_ids if i not in ("B0002", "B0003", "B0005", "B0006")]
    assert ids(similar.find("B0001", only=["B0004", "B0003"], by="text")) == ["B0004"]
    assert similar.find("B0001", only=[]) == []


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        ("XXX", {}, "item 'XXX' is not in the catalogue"),
        ({"title": ""}, {}, "has no text"),
        ("B0001", {"by": "colour"}, "by is 'colour'; it must be one of text, users, both"),
        ("B0001", {"top_k": 0}, "top_k"),
    ],
)
def test_bad_requests(similar, item, options, message):
    with pytest.raises(ValueError, match=message):
        similar.find(item, **options)


def test_commands(similar, model_folder, tokenizer, vectors, tmp_path, capsys):
    assert cli.main(["similar", str(model_folder), "--item", "B0003", "--top-k", "4"]) == 0
    shown = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == ids(similar.find("B0003", top_k=4))
    assert cli.main(["similar", str(model_folder), "--title", "Silk soap", "--by", "text"]) == 0
    shown = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert shown == ids(similar.find({"title": "Silk soap"}, by="text"))
    for name in ("vectors.parquet", "vectors.npy"):
        assert cli.main(["export-vectors", str(model_folder), "--output", str(tmp_path / name)]) == 0
    table = pq.read_table(tmp_path / "vectors.parquet")
    assert table["item_id"].to_pylist() == tokenizer.item_ids
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), vectors, atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), vectors, atol=1e-5)
    assert cli.main(["export-vectors", str(model_folder), "--output", str(tmp_path / "vectors.txt")]) == 2
    # Nothing tells whose vectors an .npy holds.
    assert cli.main(["export-vectors", str(model_folder), "--output", str(tmp_path / "vectors.npy")]) == 2
    (tmp_path / "mine.parquet").write_text("mine")
    with pytest.raises(ValueError, match="holds nothing that this command wrote"):
        export_vectors(similar.recommender, tmp_path / "mine.parquet")
