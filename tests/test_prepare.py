"""What `gram prepare` keeps, in which order and in which split, and the folder that it leaves."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gram
from gram import cli
from gram.data import TEST, TRAIN, VALIDATION, evaluation_histories, read_folder, training_part
from gram.data.prepare import PrepareSettings, k_core, prepare, recoded

from .raw_data import TABLE, raw

RECIPES = Path(gram.__file__).parent / "recipes"
DAY = 86_400


def table(folder, rows, texts=None, **settings):
    """Settings for a table of `(user, item, time)`; by default every item has a text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text("who,what,when\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    texts = {item: f"Item {item}" for _, item, _ in rows} if texts is None else texts
    (folder / "goods.csv").write_text("id,name,kind\n" + "".join(f"{item},{text},\n" for item, text in texts.items()))
    places = {"interactions": str(folder / "log.csv"), "items": str(folder / "goods.csv")}
    return PrepareSettings(**{"format": "table", "user_core": 0, "item_core": 0, **places, **TABLE, **settings})


def sequences(folder):
    rows = pq.read_table(folder / "interactions.parquet").to_pylist()
    users = dict.fromkeys(row["user_id"] for row in rows)
    return {user: [row["item_id"] for row in rows if row["user_id"] == user] for user in users}


LONG = [("ann", item, day * DAY) for day, item in enumerate("abcdef")] + [("bob", item, 9) for item in "acb"]


def test_every_stage_says_what_it_dropped(tmp_path):
    rows = [*LONG, ("ann", "a", 0), ("ann", "z", 1), ("cid", "a", 3), ("cid", "b", 3), ("ann", "a", 9 * DAY)]
    texts = {item: "" if item == "z" else item for item in "abcdefz"}
    settings = table(tmp_path, rows, texts, until="1970-01-09")
    report = prepare(settings, tmp_path / "out")
    assert [(stage.name, stage.users, stage.items, stage.interactions, stage.dropped) for stage in report.stages] == [
        ("read", 3, 7, 14, 0),
        ("until 1970-01-09", 3, 7, 13, 1),
        ("item has a text", 3, 6, 12, 1),
        ("no duplicates", 3, 6, 11, 1),
        ("3 or more per user, 0 per item", 2, 6, 9, 2),
    ]
    assert sequences(tmp_path / "out") == {"ann": list("abcdef"), "bob": ["a", "c", "b"]}
    assert "3 or more per user, 0 per item" in str(report)
    assert "leave-one-out: 5 train, 2 validation, 2 test" in str(report)
    assert "items: 7 rows, 1 without a text, 0 repeated" in str(report)


@given(st.permutations([(user, item, time) for user in "xyz" for item in "abc" for time in (1, 2)]), st.integers(0, 99))
def test_ties_keep_the_order_of_the_lines_or_of_a_hash_that_no_line_order_changes(tmp_path_factory, rows, seed):
    folder = tmp_path_factory.mktemp("ties")
    report = prepare(table(folder, rows), folder / "file")
    for user, items in sequences(folder / "file").items():
        assert items == [item for when in (1, 2) for who, item, time in rows if (who, time) == (user, when)]
    assert report.facts["ties"] == {"interactions": 18}
    assert "ties: 18 interactions (100%) share user and time with another; order of the lines" in str(report)
    for name, lines in (("hash", rows), ("again", sorted(rows))):
        prepare(table(folder / name, lines, ties="hash", ties_seed=seed), folder / name / "out")
    assert sequences(folder / "hash" / "out") == sequences(folder / "again" / "out")


def test_the_order_of_a_hash_is_no_pattern(tmp_path):
    """Of two items of one time either comes first for half of the users, and another seed tells nothing of it."""
    items, orders = [f"i{item}" for item in range(6)], []
    rows = [(f"u{user}", item, 1) for user in range(400) for item in items]
    for seed in (0, 1):
        prepare(table(tmp_path / str(seed), rows, ties="hash", ties_seed=seed), tmp_path / f"out{seed}")
        found = sequences(tmp_path / f"out{seed}").values()
        orders.append(np.array([[order.index(item) for item in items] for order in found]))  # (400, 6)
    for places in orders:
        assert np.abs((places[:, :, None] < places[:, None]).mean(0) - 0.5 * (1 - np.eye(6))).max() < 0.1
        assert np.abs(np.corrcoef(places.T) + 0.2 * (1 - np.eye(6)) - np.eye(6)).max() < 0.2
    assert 0.1 < (orders[0] == orders[1]).mean() < 0.24


def test_days_are_whole_and_inclusive(tmp_path):
    rows = [("ann", str(place), time) for place, time in enumerate([DAY - 1, DAY, 2 * DAY, 3 * DAY - 1, 3 * DAY])]
    prepare(table(tmp_path, rows, since="1970-01-02", until="1970-01-03"), tmp_path / "out")
    assert sequences(tmp_path / "out") == {"ann": ["1", "2", "3"]}


def test_the_first_of_an_items_rows_counts(tmp_path):
    settings = table(tmp_path, LONG)
    with (tmp_path / "goods.csv").open("a") as file:
        file.write("a,Another,\nnobody,Never bought,\n")
    report = prepare(settings, tmp_path / "out")
    items = read_folder(tmp_path / "out").items
    assert items.texts[0] == "title: Item a"
    assert "nobody" not in items.item_ids
    counts = {"read": 8, "bad": 0, "without_text": 0, "repeated": 1, "without_interactions": 1}
    assert report.facts["items"] == counts


def test_cores_of_users_and_items_hold_together(tmp_path):
    report = prepare(table(tmp_path, LONG, item_core=2, user_core=2), tmp_path / "out")
    assert sequences(tmp_path / "out") == {"ann": ["a", "b", "c"], "bob": ["a", "c", "b"]}
    assert report.stages[-1].name == "3 or more per user, 2 per item"
    with pytest.raises(ValueError, match=r"log\.csv: nothing is left; loosen the filters \(after read: 9, "):
        prepare(table(tmp_path, LONG, item_core=3), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=70), st.integers(0, 4), st.integers(0, 4))
def test_k_core_is_the_largest_set_where_all_have_enough(pairs, user_core, item_core):
    left = list(range(len(pairs)))
    while True:  # drop one row at a time, as the definition allows
        users, items = [pairs[row][0] for row in left], [pairs[row][1] for row in left]
        wrong = [
            row
            for row, user, item in zip(left, users, items, strict=True)
            if users.count(user) < user_core or items.count(item) < item_core
        ]
        if not wrong:
            break
        left.remove(wrong[0])
    users, items = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    assert k_core(users, items, user_core, item_core).tolist() == left


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["10", "9", "010", "1"], ["1", "9", "010", "10"]),
        (["10", "9", "x", "Z", "é"], ["10", "9", "Z", "x", "é"]),
        (["10", "9", str(10**30)], ["10", str(10**30), "9"]),
    ],
)
def test_ids_are_in_order_of_number_or_else_of_text(ids, expected):
    codes, found = recoded(np.arange(len(ids)), pa.array([*ids, "not there"]))
    assert found.to_pylist() == expected
    assert [expected[code] for code in codes] == ids


def test_leave_one_out(tmp_path):
    prepare(table(tmp_path, LONG), tmp_path / "out")
    data = read_folder(tmp_path / "out")
    assert data.splits.tolist() == [TRAIN] * 4 + [VALIDATION, TEST] + [TRAIN, VALIDATION, TEST]


@given(st.integers(0, 2**32 - 1))
def test_global_time_learns_nothing_from_later_than_the_first_cut(tmp_path_factory, seed):
    draw, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("log")
    rows = [(f"u{draw.integers(12)}", f"i{draw.integers(20)}", int(draw.integers(400))) for _ in range(300)]
    settings = table(folder, rows, split="global-time", validation_part=0.2, test_part=0.1)
    facts = prepare(settings, folder / "out").facts
    written = pq.read_table(folder / "out" / "interactions.parquet").to_pandas()
    first, second = facts["split"]["cuts"]
    times = {name: written["time"][written["split"] == name] for name in ("train", "validation", "test")}
    assert times["train"].max() < first <= times["validation"].min()
    assert times["validation"].max() < second <= times["test"].min()
    assert 0.6 < len(times["train"]) / len(written) < 0.8

    data = read_folder(folder / "out")
    assert len(training_part(data)) == len(data.interactions)
    for split, start in (("validation", first), ("test", second)):
        histories, targets = evaluation_histories(data, split)
        assert (histories.lengths >= 1).all()
        for user, history, target in zip(histories.user_ids, histories, targets, strict=True):
            own = written[written["user_id"] == user].reset_index()
            place = max(int((own["time"] < start).sum()), 1)
            assert own["item_id"][place] == data.items.item_ids[target]
            assert [data.items.item_ids[row] for row in history] == own["item_id"][:place].tolist()


def test_global_time_that_leaves_nothing_to_do_is_refused(tmp_path):
    same = [(user, item, 5) for user in "ab" for item in "xyz"]
    with pytest.raises(ValueError, match="global-time leaves nothing to train on"):
        prepare(table(tmp_path, same, split="global-time"), tmp_path / "out")
    twice = [(user, item, time) for user in "ab" for item in "xyz" for time in (0, 5)]
    with pytest.raises(ValueError, match="global-time leaves nothing to predict in validation; choose other"):
        prepare(table(tmp_path, twice, split="global-time"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["amazon2014", "movielens_20m", "table_parquet", "hub", "folder_authors"])
def test_the_same_input_gives_the_same_bytes(name, tmp_path):
    for place in ("here", "there"):
        settings, _ = raw(name, tmp_path / place / "raw")
        prepare(PrepareSettings(**settings), tmp_path / place / "out")
    here, there = (sorted((tmp_path / place / "out").iterdir()) for place in ("here", "there"))
    assert [path.name for path in here] == ["interactions.parquet", "items.parquet", "prepare.json"]
    assert [path.read_bytes() for path in here] == [path.read_bytes() for path in there]
    assert b"here" not in b"".join(path.read_bytes() for path in here)


def test_the_folder_says_where_it_comes_from(tmp_path):
    settings, _ = raw("movielens_1m", tmp_path / "raw")
    report = prepare(PrepareSettings(**settings), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "prepare.json").read_text()) == report.facts
    for name in ("interactions", "items"):
        schema = pq.read_schema(tmp_path / "out" / f"{name}.parquet")
        assert json.loads(schema.metadata[b"gram.provenance"]) == report.facts
    schema = pq.read_schema(tmp_path / "out" / "interactions.parquet")
    assert [str(field.type) for field in schema][:3] == ["string", "string", "int64"]
    assert pq.read_schema(tmp_path / "out" / "items.parquet").names == ["item_id", "title", "year", "genres"]


def test_times_with_fractions_stay_so(tmp_path):
    prepare(table(tmp_path, [("ann", item, 0.5 * place) for place, item in enumerate("abc")]), tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "interactions.parquet")["time"].to_pylist() == [0.0, 0.5, 1.0]


def test_data_sets_reads_the_folder(tmp_path):
    from datasets import load_dataset

    prepare(table(tmp_path, LONG), tmp_path / "out")
    files = {"data_files": str(tmp_path / "out" / "interactions.parquet"), "split": "train", "streaming": True}
    assert next(iter(load_dataset("parquet", **files))) == {
        "user_id": "ann",
        "item_id": "a",
        "time": 0,
        "split": "train",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"format": "csv"}, "format is 'csv'; it must be one of folder, recbole, table"),
        ({"split": "random"}, "split is 'random'"),
        ({"time_unit": "h"}, "time_unit is 'h'; it must be one of s, ms"),
        ({"since": "2019"}, "since is '2019'; it must be a day, YYYY-MM-DD"),
        ({"user_core": -1}, "user_core is -1; it must be a whole number, at least 0"),
        ({"min_length": 2}, "min_length is 2; it must be a whole number, at least 3"),
        ({"test_part": 0.0}, "test_part is 0.0; it must be a number, above 0"),
        ({"test_part": 0.9}, "validation_part and test_part are 0.1 and 0.9"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ValueError) as error:
        PrepareSettings(**{"format": "yelp", **wrong})
    assert str(error.value).startswith(message)


def write_folder(folder, users, items, times, splits=None, catalogue=("a", "b", "c")):
    log = {"user_id": users, "item_id": items, "time": times, **({} if splits is None else {"split": splits})}
    pq.write_table(pa.table(log), folder / "interactions.parquet")
    pq.write_table(pa.table({"item_id": catalogue, "title": catalogue}), folder / "items.parquet")


def test_anybodys_parquet_folder_without_a_split_is_leave_one_out(tmp_path):
    write_folder(tmp_path, ["z", "z", "z"], ["b", "a", "c"], [1, 1, 2])
    data = read_folder(tmp_path)
    assert data.interactions.user_ids == ["z"]
    assert data.interactions.items.tolist() == [1, 0, 2]
    assert data.interactions.items.dtype == np.int32
    assert data.splits.tolist() == [TRAIN, VALIDATION, TEST]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((["u", "v", "u"], ["a", "b", "c"], [1, 2, 3]), "interactions.parquet:3: user u has rows further up; sort by"),
        ((["u", "u", "u"], ["a", "b", "c"], [1, 3, 2]), "interactions.parquet:3: user u: time runs backwards; sort"),
        ((["u", "u", "u"], ["a", "z", "c"], [1, 2, 3]), "interactions.parquet:2: item z has no text; add it to"),
        ((["u", None, "u"], ["a", "b", "c"], [1, 2, 3]), "interactions.parquet:2: user id is empty; give every id"),
        (
            (["u", "u", "u"], ["a", "b", "c"], [1, None, 3]),
            "interactions.parquet:2: time is missing, or",
        ),
        (
            (["u", "u", "u"], ["a", "b", "c"], ["x", "y", "z"]),
            "interactions.parquet:1: time is missing, or",
        ),
        ((["u", "u"], ["a", "b"], [1, 2]), "interactions.parquet:1: user u has 2 items, leave-one-out needs"),
        ((["u"], ["a"], [1], ["dev"]), "interactions.parquet:1: split is none of train, validation, test; correct"),
        ((["u"] * 2, ["a", "b"], [1, 2], ["test", "train"]), "interactions.parquet:2: train stands after test of"),
        (([], [], []), "interactions.parquet: no interactions; give"),
        (([["u"]], ["a"], [1]), "interactions.parquet: the user ids are of type list<"),
        ((["u"], ["a"], [1], ["train"], ["a", "a"]), "items.parquet:2: item a stands on line 1 already"),
        ((["u"], ["a"], [1], ["train"], ["a", None]), "items.parquet:2: item id is empty"),
    ],
)
def test_a_wrong_parquet_folder_is_named_with_file_row_and_remedy(columns, message, tmp_path):
    write_folder(tmp_path, *columns)
    with pytest.raises(ValueError) as error:
        read_folder(tmp_path)
    assert message in str(error.value)
    assert ";" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_parquet_folder_with_a_part_missing(tmp_path):
    write_folder(tmp_path, ["u"], ["a"], [1], ["train"])
    table = pq.read_table(tmp_path / "interactions.parquet")
    pq.write_table(table.drop_columns("time"), tmp_path / "interactions.parquet")
    with pytest.raises(ValueError, match=r"interactions\.parquet:1: column time is missing; name one of"):
        read_folder(tmp_path)
    (tmp_path / "interactions.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"interactions\.parquet: not a sound Parquet file"):
        read_folder(tmp_path)
    (tmp_path / "interactions.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"interactions\.parquet: no such file; give"):
        read_folder(tmp_path)


@pytest.fixture
def run(capsys):
    """Runs `gram prepare`; returns its exit code, its lines, and its lines of errors."""

    def command(*argv):
        code = cli.main(["prepare", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return command


@pytest.mark.parametrize(
    ("recipe", "name", "flags"),
    [
        ("amazon2014", "amazon2014", ["--user-core", 0]),
        ("amazon2023", "amazon2023", ["--user-core", 0]),
        ("yelp", "yelp", ["--user-core=0"]),
        ("movielens", "movielens_100k", ["--user-core", 0]),
        ("recbole", "recbole", ["--user-core", 0, "--text-columns", "name=title,class=genres"]),
        ("table", "table_csv", ["--user-core", 0, "--split", "leave-one-out"]),
        ("hub", "hub", ["--user-core", 0]),
    ],
)
def test_recipes_run(recipe, name, flags, run, tmp_path):
    settings, _ = raw(name, tmp_path / "raw")
    chosen = {"input", "interactions", "items", *TABLE, "time_unit"}
    given = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if key in chosen]
    output = tmp_path / "out"
    config = RECIPES / f"prepare-{recipe}.yaml"
    code, lines, errors = run("--config", config, *given, *flags, "--item-core", "0", "--output", output)
    assert (code, errors) == (0, [])
    assert lines[0].split() == ["users", "items", "interactions", "dropped"]
    assert lines[1].split() == ["read", "3", "3", "10", "0"]
    assert lines[-1] == f"saved to {output}"
    assert len(read_folder(output).interactions) == 3


def test_bad_input_is_one_line_and_leaves_nothing(run, tmp_path):
    raw("movielens_1m", tmp_path / "raw")
    with (tmp_path / "raw" / "ratings.dat").open("a") as file:
        file.write("1::2\n")
    argv = ["--format", "movielens", "--input", tmp_path / "raw", "--user-core", 0, "--item-core", 0]
    output = tmp_path / "new" / "data"
    code, lines, errors = run(*argv, "--output", output)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert errors[0].startswith(f"gram: error: {tmp_path / 'raw' / 'ratings.dat'}:11: 2 columns by '::', not 4;")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    code, lines, errors = run("--skip-bad-lines", *argv, "--output", output)
    assert (code, errors) == (0, [])
    assert "  ratings.dat:11: 2 columns by '::', not 4" in lines
    code, _, errors = run(*argv, "--output", output)
    assert (code, len(errors)) == (2, 1)
    assert f"{output}: exists already; give another name, or remove it" in errors[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--format", "yelp", "--input", "."], "required: --output; see `gram prepare --help`"),
        (["--output", "x"], "--format is required"),
        (["--format", "xml", "--output", "x"], "format is 'xml'; it must be one of"),
        (["--format", "yelp", "--output", "x", "--user-core", "many"], "--user-core: invalid int value: 'many'"),
        (["--format", "yelp", "--output", "x", "--input", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_wrong_flags(argv, message, run):
    code, lines, errors = run(*argv)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert message in errors[0]
