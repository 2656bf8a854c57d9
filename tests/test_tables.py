"""Tables of users in, ranked items out: by this process, and by the workers of Ray and Spark."""

import copy
import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gram import cli
from gram.benchmarks import many_users
from gram.common.provenance import METADATA_KEY
from gram.item_cache_gram import ItemCache
from gram.serving.engines import ItemEncoder, by_ray
from gram.serving.loading import load_model
from gram.serving.recommendation import Recommender
from gram.serving.tables import RANKED_SCHEMA, FileRecommender, TableRecommender, recommend_tables


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
    flags = ["--users", str(tmp_path / "users.parquet"), "--output", str(tmp_path / "out")]
    assert cli.main(["recommend", str(encoded_folder), *flags]) == 2
    said = capsys.readouterr().err
    assert f"users.parquet: {message}" in said
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_other_faults_are_told(encoded_folder, users_folder, tmp_path, capsys):
    def said(*flags):
        assert cli.main(["recommend", str(encoded_folder), *map(str, flags)]) == 2
        return capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    (tmp_path / "no.parquet").write_text("no")
    (tmp_path / "users.txt").write_text("anna B0001\n")
    out = ("--output", tmp_path / "out")
    assert "empty: no .parquet file in it" in said("--users", tmp_path / "empty", *out)
    assert "none.parquet: no such file" in said("--users", tmp_path / "none.parquet", *out)
    assert "no.parquet: Parquet file size is 2 bytes" in said("--users", tmp_path / "no.parquet", *out)
    assert "--engine ray is for tables" in said("--users", tmp_path / "users.txt", "--engine", "ray", *out)
    assert "users.txt: is a file; give a folder" in said("--users", users_folder, "--output", tmp_path / "users.txt")
    with pytest.raises(ValueError, match="'beams' is no argument of a search"):
        TableRecommender(encoded_folder, beams=3)
    with pytest.raises(ValueError, match="engine is 'dask'"):
        recommend_tables(FileRecommender(encoded_folder), users_folder, tmp_path / "out", "dask")


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
    assert cli.main([*command, "--top-k", "3"]) == 2
    assert "part-4.parquet: was made with top_k=10, now 3; give another --output" in capsys.readouterr().err


def test_a_table_that_is_older_than_an_argument_is_refused_where_it_is_used(encoded_folder, users, tmp_path):
    pq.write_table(users, tmp_path / "users.parquet")
    files = tmp_path / "users.parquet", tmp_path / "ranked.parquet"
    FileRecommender(encoded_folder).recommend_file(*files)
    written = pq.read_table(files[1])
    facts = json.loads(written.schema.metadata[METADATA_KEY.encode()])
    del facts["settings"]["cold_share"]
    pq.write_table(written.replace_schema_metadata({METADATA_KEY: json.dumps(facts)}), files[1])
    assert FileRecommender(encoded_folder).recommend_file(*files) == len(users)
    with pytest.raises(ValueError, match=r"made with cold_share=0\.0, now 0\.5"):
        FileRecommender(encoded_folder, cold_share=0.5).recommend_file(*files)


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
    encoder = ItemEncoder(encoded_folder, tmp_path / "two", dtype)
    parts = [{"first": first, "after": after} for first, after in gaps[1:]]
    assert sum(by_ray(encoder, parts, num_workers=2)) == len(tokenizer.item_ids) - 7
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
        recommend_tables(FileRecommender(encoded_folder), users_folder, tmp_path / "two", "ray", progress=False)


def test_ray_data_maps_tables(cluster, encoded_folder, users_folder, users):
    found = cluster.data.read_parquet(str(users_folder)).map_batches(
        TableRecommender, fn_constructor_args=(str(encoded_folder),), batch_format="pyarrow", concurrency=1
    )
    expected = TableRecommender(encoded_folder)(users)
    by_user = dict(zip(expected["user_id"].to_pylist(), expected["items"].to_pylist(), strict=True))
    assert {row["user_id"]: list(row["items"]) for row in found.take_all()} == by_user
