"""Tables and files of users in, ranked items out: by this process, and by the workers of Ray and Spark."""

import copy
import json
import os
import shutil
from functools import partial
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from gram import cli
from gram.benchmarks import many_users
from gram.item_cache_gram import ItemCache
from gram.serving.engines import by_ray, encode_part
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.serving.tables import CSV_SCHEMA, RANKED_SCHEMA, TableRecommender, recommend_tables
from gram.tokenization_gram import GramTokenizer


@pytest.fixture(scope="module")
def encoded_folder(model_folder, model, tokenizer, tmp_path_factory):
    """With item encodings: so that what a user gets does not hang on who is searched for beside them."""
    folder = shutil.copytree(model_folder, tmp_path_factory.mktemp("encoded") / "model")
    model.encode_items(tokenizer, folder / "item_encodings", progress=False)
    return folder


@pytest.fixture(scope="module")
def users(data):
    ids = data.items.item_ids
    histories = [[ids[row] for row in history] for history in data.interactions]
    histories[3], histories[5] = [], ["gone", *histories[5]]
    return pa.table({"user_id": data.interactions.user_ids, "items": histories, "country": ["x"] * len(histories)})


@pytest.fixture
def users_folder(users, tmp_path):
    """Five files, one of them in a folder of its own."""
    folder = tmp_path / "users"
    (folder / "day=2").mkdir(parents=True)
    for number in range(5):
        place = folder / ("day=2" if number == 4 else "") / f"part-{number}.parquet"
        pq.write_table(users.slice(8 * number, 8), place)
    return folder


def tables_of(folder):
    return {path.relative_to(folder).as_posix(): pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("more", [{}, {"cold_share": 0.5, "cold_below": 12}])
def test_a_table_says_what_the_recommender_says(encoded_folder, users, more):
    search = {"top_k": 4, "where": [], "exclude": ["B0002"], **more}
    ranked = TableRecommender(encoded_folder, **search)(users)
    assert ranked.schema.equals(RANKED_SCHEMA)
    assert ranked["user_id"].to_pylist() == users["user_id"].to_pylist()
    found = Recommender.from_pretrained(encoded_folder).recommend(users["items"].to_pylist(), **search)
    assert ranked["items"].to_pylist() == [[item.item_id for item in of] for of in found]
    assert ranked["skipped"].to_pylist() == [of.skipped for of in found]
    assert ranked["fallback"].to_pylist() == [of.is_fallback for of in found]
    for scores, of in zip(ranked["scores"].to_pylist(), found, strict=True):
        assert scores == pytest.approx([item.score for item in of], rel=1e-5, abs=1e-5)


def test_a_copy_loads_its_own_model_and_takes_batches(encoded_folder, users):
    here = TableRecommender(encoded_folder, top_k=3)
    expected = here(users)
    other = copy.deepcopy(here)  # in the way in which Ray and Spark send it
    assert len(repr(other.__dict__)) < 2000
    assert other(users).equals(expected)
    batches = list(copy.deepcopy(here).of_batches(users.to_batches(max_chunksize=7)))
    assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]
    assert pa.Table.from_batches(batches)["items"].to_pylist() == expected["items"].to_pylist()


def test_nobody_and_nothing(encoded_folder, users):
    assert len(TableRecommender(encoded_folder)(users.slice(0, 0))) == 0
    nothing = TableRecommender(encoded_folder, only=[])(users)
    assert nothing["items"].to_pylist() == [[]] * len(users)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["a"]}, "there is no column items"),
        ({"items": [["B0001"]]}, "there is no column user_id"),
        ({"user_id": ["a"], "items": ["B0001"]}, "column items is string; it must be list"),
        ({"user_id": ["a", None], "items": [["B0001"], []]}, "column user_id has an empty value"),
        ({"user_id": ["a"], "items": [["B0001", None]]}, "user a: item ids are strings, got None"),
    ],
)
def test_what_is_no_table_of_users_is_told_with_its_file(encoded_folder, tmp_path, capsys, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "users.parquet")
    flags = ["--users", str(tmp_path / "users.parquet"), "--output", str(tmp_path / "out" / "recs.parquet")]
    assert cli.main(["recommend", str(encoded_folder), *flags]) == 2
    said = capsys.readouterr().err
    assert f"users.parquet: {message}" in said
    assert not (tmp_path / "out").exists()


def test_other_faults_are_told(encoded_folder, users_folder, tmp_path, capsys):
    def said(*flags):
        assert cli.main(["recommend", str(encoded_folder), *map(str, flags)]) == 2
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    (tmp_path / "no.parquet").write_text("no")
    (tmp_path / "users.txt").write_text("anna B0001\n")
    out = ("--output", tmp_path / "out.parquet")
    assert "empty: no .parquet file in it" in said("--users", tmp_path / "empty", *out)
    assert "none.parquet: no such file" in said("--users", tmp_path / "none.parquet", *out)
    assert "no.parquet: Parquet file size is 2 bytes" in said("--users", tmp_path / "no.parquet", *out)
    assert "users.txt: is a file; give a folder" in said("--users", users_folder, "--output", tmp_path / "users.txt")
    assert "out: lies in" in said("--users", users_folder, "--output", users_folder / "out")
    with pytest.raises(ValueError, match="'beams' is no argument of a search"):
        TableRecommender(encoded_folder, beams=3)
    with pytest.raises(ValueError, match="engine is 'dask'"):
        recommend_tables(TableRecommender(encoded_folder), users_folder, tmp_path / "out", "dask")


def test_files_are_done_once(encoded_folder, users_folder, users, tmp_path, capsys):
    command = ["recommend", str(encoded_folder), "--users", str(users_folder), "--output", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert "recommendations to 40 users" in capsys.readouterr().out
    done = tables_of(tmp_path / "out")
    assert list(done) == sorted(path.relative_to(users_folder).as_posix() for path in users_folder.rglob("*.parquet"))
    names = [name for table in done.values() for name in table["user_id"].to_pylist()]
    assert sorted(names) == sorted(users["user_id"].to_pylist())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    (tmp_path / "out" / "part-2.parquet").unlink()
    assert cli.main(command) == 0
    assert tables_of(tmp_path / "out") == done
    assert sum(path.stat().st_mtime_ns != time for path, time in times.items()) == 1
    assert cli.main([*command, "--top-k", "3"]) == 0
    assert {len(items) for table in tables_of(tmp_path / "out").values() for items in table["items"].to_pylist()} == {3}


@pytest.fixture(scope="module")
def histories(users):
    return users["items"].to_pylist()[:10]


def write_lines(path, histories):
    path.write_text("".join(" ".join([f"user{number}", *history]) + "\n" for number, history in enumerate(histories)))
    return path


def test_a_file_of_lines_is_a_table(encoded_folder, histories, tmp_path):
    lines, output = write_lines(tmp_path / "users.txt", histories), tmp_path / "new" / "recs.parquet"
    assert TableRecommender(encoded_folder, top_k=3).recommend_file(lines, output) == len(histories)
    names = [f"user{number}" for number in range(len(histories))]
    expected = TableRecommender(encoded_folder, top_k=3)(pa.table({"user_id": names, "items": histories}))
    assert pq.read_table(output).equals(expected)
    assert [path.name for path in output.parent.iterdir()] == ["recs.parquet"]


def test_a_csv_has_a_row_for_each_item(encoded_folder, tokenizer, histories, tmp_path):
    few = [tokenizer.item_ids, *histories]  # who has had all gets nothing
    write_lines(tmp_path / "users.txt", few)
    recommender = TableRecommender(encoded_folder, top_k=3)
    recommender.users_per_part = 4
    assert recommender.recommend_file(tmp_path / "users.txt", tmp_path / "recs.csv") == len(few)
    options = csv.ConvertOptions(column_types=CSV_SCHEMA)
    table = csv.read_csv(tmp_path / "recs.csv", convert_options=options)
    expected = Recommender.from_pretrained(encoded_folder).recommend(few, top_k=3)
    rows = [(f"user{user}", rank, item) for user, of in enumerate(expected) for rank, item in enumerate(of, start=1)]
    columns = [table[name].to_pylist() for name in ("user_id", "rank", "item_id", "title")]
    assert list(zip(*columns, strict=True)) == [(user, rank, item.item_id, item.title) for user, rank, item in rows]
    assert table["score"].to_pylist() == pytest.approx([item.score for *_, item in rows], abs=1e-5)
    assert table["rank"].to_pylist()[:3] == [1, 2, 3]


@pytest.fixture
def asked(monkeypatch):
    """Counts the users that are searched for, and interrupts the search of those after `asked.most`."""
    search, asked = Recommender.recommend_rows, SimpleNamespace(users=0, most=None)

    def counting(self, histories, *args, **settings):
        asked.users += len(histories)
        if asked.most is not None and asked.users > asked.most:
            raise KeyboardInterrupt
        return search(self, histories, *args, **settings)

    monkeypatch.setattr(Recommender, "recommend_rows", counting)
    return asked


def in_parts(folder, **search):
    recommender = TableRecommender(folder, batch_size=2, top_k=3, **search)
    recommender.users_per_part = 4
    return recommender


@pytest.mark.parametrize("kind", ["txt", "parquet"])
@pytest.mark.parametrize("output", ["recs.parquet", "recs.csv"])
def test_an_interrupted_file_goes_on_where_it_was(model_folder, histories, tmp_path, asked, kind, output):
    users, output = write_lines(tmp_path / "users.txt", histories), tmp_path / output
    if kind == "parquet":
        names = [f"user{number}" for number in range(len(histories))]
        pq.write_table(pa.table({"user_id": names, "items": histories}), users := tmp_path / "users.parquet")
    asked.most = 8
    with pytest.raises(KeyboardInterrupt):
        in_parts(model_folder).recommend_file(users, output)
    assert not output.exists()
    asked.users, asked.most = 0, None
    in_parts(model_folder).recommend_file(users, output)
    assert asked.users == len(histories) - 8
    in_parts(model_folder).recommend_file(users, whole := tmp_path / f"whole{output.suffix}")
    assert output.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.parts"))


def change_weights(folder):
    model, _ = load_model(folder)
    model.position_embedding.weight.data += 0.01
    model.save_pretrained(folder)


def change_prompts(folder):
    GramTokenizer.from_pretrained(folder, max_history=2).save_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cold_share": 0.5}, "cold_share=0.0, now 0.5"),
        ({"only": ["B0001", "B0002", "B0003"]}, "other allowed items"),
        ([["B0001"]], "other users"),
        (change_weights, "other weights or configuration"),
        (change_prompts, "other catalogue or prompts"),
    ],
)
def test_parts_of_another_run_are_done_anew_by_name_of_what_differs(
    model_folder, histories, tmp_path, asked, caplog, change, named
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    users, output = write_lines(tmp_path / "users.txt", histories), tmp_path / "recs.parquet"
    asked.most = 8
    with pytest.raises(KeyboardInterrupt):
        in_parts(folder).recommend_file(users, output)
    asked.users, asked.most = 0, None
    if callable(change):
        change(folder)
    elif isinstance(change, list):
        write_lines(users, [*change, *histories[1:]])
    in_parts(folder, **(change if isinstance(change, dict) else {})).recommend_file(users, output)
    assert asked.users == len(histories)
    assert f"parts of {named} are of no use" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"u1 B0001\n\nu1 B0002\n", r"users\.txt:3: user u1 stands on line 1 already"),
        (b"u1 B0001\nu\xff B0002\n", r"users\.txt:2: not UTF-8"),
        (b"\n", r"users\.txt: no users"),
        (None, r"users\.txt: no such file"),
    ],
)
def test_wrong_lines_are_named_and_nothing_is_written(model_folder, tmp_path, content, message):
    if content is not None:
        (tmp_path / "users.txt").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TableRecommender(model_folder).recommend_file(tmp_path / "users.txt", tmp_path / "out" / "recs.parquet")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lines", ["u1 B0001 gone\nu2\nu3 gone\n", "u1\nu2 gone\n"])
def test_a_file_of_users_some_of_whom_are_strangers(model_folder, tmp_path, caplog, lines):
    (tmp_path / "users.txt").write_text(lines)
    TableRecommender(model_folder, top_k=3).recommend_file(tmp_path / "users.txt", tmp_path / "recs.parquet")
    expected = Recommender.from_pretrained(model_folder).recommend([line.split()[1:] for line in lines.splitlines()], 3)
    table = pq.read_table(tmp_path / "recs.parquet")
    assert table["items"].to_pylist() == [[item.item_id for item in of] for of in expected]
    assert "items are not in the catalogue and skipped; 2 users have no other and get what is popular" in caplog.text


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_worker_niceness"] = "0"  # or they wait for whatever else the machine is at
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def test_two_workers_of_ray_encode_what_one_process_encodes(cluster, encoded_folder, tmp_path, capsys):
    model, tokenizer = load_model(encoded_folder)
    dtype, gaps = ItemCache.gaps(tmp_path / "two", model, tokenizer, "int8", rows_per_shard=7)
    encode = partial(encode_part, str(encoded_folder), str(tmp_path / "two"), dtype, None)
    parts = [{"first": first, "after": after} for first, after in gaps[1:]]
    assert sum(by_ray(encode, parts, num_workers=2)) == len(tokenizer.item_ids) - 7
    left = ["encode", str(encoded_folder), "--output", str(tmp_path / "two"), "--engine", "ray"]
    assert cli.main(left) == 0
    assert "30 items encoded in int8" in capsys.readouterr().out
    model.encode_items(tokenizer, tmp_path / "one", "int8", rows_per_shard=7, progress=False)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).glob("item*")} for name in ("one", "two")]
    assert files[0] == files[1]


def test_two_workers_of_ray_say_what_one_process_says_though_one_is_killed(
    cluster, encoded_folder, data_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(many_users, "USERS_PER_FILE", 8)
    flags = ["--data", data_folder, "--users", 50, "--output-dir", tmp_path]
    many_users.main([str(encoded_folder), *map(str, flags)])  # raises where a table is not what one process gives
    assert (tmp_path / "killed").exists()
    tables = [tables_of(tmp_path / name) for name in ("one", "ray", "ray-killed")]
    assert tables[0] == tables[1] == tables[2]
    assert sum(map(len, tables[0].values())) == 50
    assert [*json.loads((tmp_path / "many_users.json").read_text())["seconds"]] == ["one", "ray", "ray-killed"]
    assert sum(line.startswith("| ") for line in capsys.readouterr().out.splitlines()) == 5


def test_what_fails_at_a_worker_is_told_as_here(cluster, encoded_folder, users_folder, tmp_path):
    pq.write_table(pa.table({"user_id": ["a"]}), users_folder / "part-9.parquet")
    with pytest.raises(ValueError, match=r"part-9.parquet: there is no column items"):
        recommend_tables(TableRecommender(encoded_folder), users_folder, tmp_path / "two", "ray", progress=False)


def test_ray_data_maps_tables(cluster, encoded_folder, users_folder, users):
    found = cluster.data.read_parquet(str(users_folder)).map_batches(
        TableRecommender, fn_constructor_args=(str(encoded_folder),), batch_format="pyarrow", concurrency=1
    )
    expected = TableRecommender(encoded_folder)(users)
    by_user = dict(zip(expected["user_id"].to_pylist(), expected["items"].to_pylist(), strict=True))
    assert {row["user_id"]: list(row["items"]) for row in found.take_all()} == by_user
