"""Readers and the split: what a data folder may hold, and what is said of one that it may not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gram.collaborative.baselines import ItemKNN, Popularity
from gram.collaborative.fitting import fit_sasrec
from gram.collaborative.sasrec import SASRecSettings
from gram.data import (
    TEST,
    TRAIN,
    VALIDATION,
    Interactions,
    ItemTable,
    RecommendationData,
    evaluation_histories,
    read_folder,
    training_part,
)
from gram.data.folder import read_items
from gram.data.prepare import PrepareSettings, prepare
from gram.data.samples import prefix_groups
from gram.translation.given import read_lexical_ids, read_similar_items

SHARED = Path(__file__).parents[1].parent / "shared"
HEADER = "asin\ttitle\tbrand\n"
TABLE = HEADER + "A\tRed  lipstick\tKiss\nB\t\tGlow\nC\tBlush\t\nD\tComb\t\n"
SEQUENCES = "ann A B C D\nbob C A B\n"


@given(st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=4))
def test_a_repeat_is_an_item_that_its_user_has_had_before(sequences):
    interactions = Interactions.from_sequences([*map(str, range(len(sequences)))], sequences)
    assert interactions.num_repeats == sum(len(sequence) - len(set(sequence)) for sequence in sequences)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "item_text.tsv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "user_sequence.txt").write_text(SEQUENCES, encoding="utf-8")
    return tmp_path


def test_items_and_sequences_come_in_the_order_of_their_files(folder):
    data = read_folder(folder)
    assert data.items.item_ids == ["A", "B", "C", "D"]
    assert data.interactions.user_ids == ["ann", "bob"]
    assert [sequence.tolist() for sequence in data.interactions] == [[0, 1, 2, 3], [2, 0, 1]]
    assert data.folder == folder


def test_texts_leave_out_empty_fields_and_collapse_white_space(folder):
    items = read_folder(folder).items
    assert items.texts == ["title: Red lipstick; brand: Kiss", "brand: Glow", "title: Blush", "title: Comb"]
    assert items.titles == ["Red lipstick", "brand: Glow", "Blush", "Comb"]


def test_a_field_may_be_called_line(folder):
    (folder / "item_text.tsv").write_text(TABLE.replace("brand", "line"), encoding="utf-8")
    assert read_folder(folder).items.texts[:2] == ["title: Red lipstick; line: Kiss", "line: Glow"]
    prepare(PrepareSettings("folder", input=str(folder), user_core=0, item_core=0), folder / "out")
    assert read_folder(folder / "out").items.texts[:2] == ["title: Red lipstick; line: Kiss", "line: Glow"]


def test_the_authors_plain_text_is_read_where_there_is_no_table(folder):
    (folder / "item_text.tsv").unlink()
    lines = "A title: Red lipstick; brand: Kiss\nB brand: Glow;\nC title: Blush; pink; brand: X\nD title: Comb\n"
    (folder / "item_plain_text.txt").write_text(lines, encoding="utf-8")
    items = read_folder(folder).items
    assert items.titles == ["Red lipstick", "brand: Glow;", "Blush; pink", "Comb"]
    assert items.texts[0] == "title: Red lipstick; brand: Kiss"


def test_windows_line_ends_byte_order_mark_and_blank_lines_do_no_harm(folder):
    expected = read_folder(folder)
    (folder / "item_text.tsv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode() + b"\r\n")
    (folder / "user_sequence.txt").write_bytes(b"\n" + SEQUENCES.replace("\n", "\r\n\r\n").encode())
    data = read_folder(folder)
    assert data.items == expected.items
    assert data.interactions.items.tolist() == expected.interactions.items.tolist()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("user_sequence.txt", "ann A B C\nbob A\xff B C\n", "user_sequence.txt:2: not UTF-8 (byte 0xff at place 6)"),
        ("user_sequence.txt", "ann A B C\nbob\n", "user_sequence.txt:2: user bob has no items"),
        ("user_sequence.txt", "ann A B C\nbob A B\n", "user_sequence.txt:2: user bob has 2 items, leave-one-out needs"),
        ("user_sequence.txt", "ann A B C\n\nann A B D\n", "user_sequence.txt:3: user ann has a line already"),
        ("user_sequence.txt", "ann A B C\nbob A Z C\n", "user_sequence.txt:2: item Z has no text"),
        ("user_sequence.txt", "\n", "user_sequence.txt: no interactions"),
        ("item_text.tsv", HEADER + "A\tLipstick\tKiss\nB\tComb\n", "item_text.tsv:3: 2 columns, the header has 3"),
        ("item_text.tsv", HEADER + "A\ta\tb\nA\tc\td\n", "item_text.tsv:3: item A stands on line 2 already"),
        ("item_text.tsv", HEADER + "A\ta\tb\nB\t \t\n", "item_text.tsv:3: item B has an empty text"),
        ("item_text.tsv", HEADER + "\ta\tb\n", "item_text.tsv:2: item id is empty"),
        ("item_text.tsv", HEADER + "A A\ta\tb\n", "item_text.tsv:2: item id 'A A' holds a space"),
        ("item_text.tsv", "A\tLipstick\tKiss\n", "item_text.tsv:1: column asin or item_id is missing"),
        ("item_text.tsv", "asin\nA\n", "item_text.tsv:1: the header has no text columns, or two of one name"),
        (
            "item_text.tsv",
            "asin\ttitle\ttitle\nA\ta\tb\n",
            "item_text.tsv:1: the header has no text columns, or two of one name",
        ),
        ("item_text.tsv", HEADER, "item_text.tsv: no items"),
        ("item_text.tsv", "", "item_text.tsv:1: column asin or item_id is missing"),
    ],
)
def test_a_wrong_line_is_named_with_file_line_and_remedy(folder, file, content, message):
    (folder / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError) as error:
        read_folder(folder)
    said = str(error.value)
    assert message in said
    assert "\n" not in said
    assert ";" in said  # the remedy


def test_an_empty_plain_text_is_refused(folder):
    (folder / "item_text.tsv").unlink()
    for line in ("A\n", "A title: ; brand: \n"):
        (folder / "item_plain_text.txt").write_text(line, encoding="utf-8")
        with pytest.raises(ValueError, match=r"item_plain_text\.txt:1: item A has an empty text"):
            read_folder(folder)


@pytest.mark.parametrize("file", ["user_sequence.txt", "item_text.tsv"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        read_folder(folder)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_folder(folder / "nowhere")


def test_what_is_missing_in_a_list_leaves_its_other_parts(tmp_path):
    genres = pa.array([["Drama", None, "War"], [None], None, []], pa.list_(pa.string()))
    table = pa.table({"item_id": list("abcd"), "title": ["A", "B", "C", "D"], "genres": genres})
    pq.write_table(table, tmp_path / "items.parquet")
    texts = read_items(tmp_path / "items.parquet").texts
    assert texts == ["title: A; genres: Drama, War", "title: B", "title: C", "title: D"]


def test_lexical_ids_come_in_catalogue_order(tmp_path):
    path = tmp_path / "lexical_ids.txt"
    path.write_text("B |▁red|ren\nA |▁red|▁lip|1\n", encoding="utf-8")
    assert read_lexical_ids(path, ["A", "B"]) == [["▁red", "▁lip", "1"], ["▁red", "ren"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A |▁red\nB ▁blue\n", ":2: not of the form"),
        ("A |▁red\nB |▁blue||x\n", ":2: not of the form"),
        ("A |▁red\nB |▁blue x\n", ":2: not of the form"),
        ("A |▁red\nB |▁red\n", ":2: items A and B have the same lexical ID"),
        ("A |▁red\nA |▁blue\n", ":2: item A has a lexical ID already"),
        ("A |▁red\nZ |▁blue\n", ":2: item Z is not in the catalogue"),
        ("A |▁red\n", ": item B has no lexical ID"),
    ],
)
def test_wrong_lexical_ids_are_named(tmp_path, content, message):
    path = tmp_path / "lexical_ids.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_lexical_ids(path, ["A", "B"])
    assert f"{path}{message}" in str(error.value)


def test_similar_items_are_padded(tmp_path):
    path = tmp_path / "similar_items.txt"
    path.write_text("anchor top1 top2\nC A B\nA C\n", encoding="utf-8")
    assert read_similar_items(path, ["A", "B", "C"]).tolist() == [[2, -1], [-1, -1], [0, 1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A B\nB A\n", ":1: no header"),
        ("anchor top1\nA Z\n", ":2: item Z is not in the catalogue"),
        ("anchor top1\nA B\nA C\n", ":3: item A has a line already"),
        ("anchor top1 top2\nA A B\n", ":2: an item stands twice"),
        ("anchor top1 top2\nA B B\n", ":2: an item stands twice"),
    ],
)
def test_wrong_similar_items_are_named(tmp_path, content, message):
    path = tmp_path / "similar_items.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_similar_items(path, ["A", "B", "C"])
    assert f"{path}{message}" in str(error.value)


def test_leave_one_out_holds_the_last_two_items_out(folder):
    data = read_folder(folder)
    assert data.splits.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TEST]
    assert [sequence.tolist() for sequence in training_part(data)] == [[0, 1], [2]]
    histories, targets = evaluation_histories(data, "validation")
    assert [sequence.tolist() for sequence in histories] == [[0, 1], [2]]
    assert targets.tolist() == [2, 0]
    histories, targets = evaluation_histories(data, "test")
    assert [sequence.tolist() for sequence in histories] == [[0, 1, 2], [2, 0]]
    assert targets.tolist() == [3, 1]
    assert targets.dtype == np.int32


def made(sequences, splits=None):
    users = [f"u{user}" for user in range(len(sequences))]
    items = ItemTable(list("ABCD"), list("abcd"), list("abcd"))
    return RecommendationData(items, Interactions.from_sequences(users, sequences), splits=splits)


def test_the_split_refuses_what_it_cannot_split():
    with pytest.raises(ValueError, match="user u1 has 2 items"):
        made([[0, 1, 2], [0, 1]])
    with pytest.raises(ValueError, match="split is 'train'"):
        evaluation_histories(made([[0, 1, 2]]), "train")
    with pytest.raises(ValueError, match="the data: no user has a test interaction with another before it"):
        evaluation_histories(made([[0, 1, 2], [3]], np.array([0, 0, 1, 2], dtype=np.int8)), "test")


def test_given_splits_decide_over_users_of_any_length():
    sequences = [[0, 1, 2, 3], [3], [1, 2], [2, 0, 1], []]
    data = made(sequences, np.array([0, 0, 1, 1, 1, 2, 2, 0, 1, 2], dtype=np.int8))
    assert [sequence.tolist() for sequence in training_part(data)] == [[0, 1], [], [], [2], []]
    histories, targets = evaluation_histories(data, "validation")
    assert histories.user_ids == ["u0", "u3"]
    assert [sequence.tolist() for sequence in histories] == [[0, 1], [2]]
    assert targets.tolist() == [2, 0]
    histories, targets = evaluation_histories(data, "test")
    assert histories.user_ids == ["u2", "u3"]
    assert [sequence.tolist() for sequence in histories] == [[1], [2, 0]]
    assert targets.tolist() == [2, 1]


def test_baselines_take_users_without_training_items():
    training = training_part(made([[0, 1, 2, 3], [3], [1]], np.array([0, 0, 0, 2, 1, 0], dtype=np.int8)))
    sasrec = fit_sasrec(training, 4, SASRecSettings(dim=4, num_layers=1, num_heads=1, epochs=1), progress=False)
    for recommender in (Popularity(training, 4), ItemKNN(training, 4), sasrec):
        assert recommender.score([np.array([3])]).shape == (1, 4)
    assert prefix_groups(training, 1).tolist() == [[0, 1, 2], [0, 2, 3]]


def test_interactions_behave_like_a_sequence_of_arrays():
    interactions = Interactions.from_sequences(["a", "b"], [[1, 2, 3], [4]])
    assert len(interactions) == 2
    assert interactions[-1].tolist() == [4]
    assert interactions.lengths.tolist() == [3, 1]
    with pytest.raises(IndexError):
        interactions[2]
    with pytest.raises(ValueError, match="1 users but 2 sequences"):
        Interactions.from_sequences(["a"], [[1], [2]])
    assert len(Interactions.from_sequences([], [])) == 0


@pytest.mark.skipif(
    not (SHARED / "data" / "beauty").is_dir(), reason="no ../shared/data: the Amazon data are not there"
)
@pytest.mark.parametrize(("name", "users", "items"), [("beauty", 22_363, 12_101), ("sports", 35_598, 18_357)])
def test_the_authors_folders_are_read_whole(name, users, items):
    data = read_folder(SHARED / "data" / name)
    assert (len(data.interactions), len(data.items)) == (users, items)
    lexical_ids = read_lexical_ids(SHARED / "data" / name / "lexical_ids.txt", data.items.item_ids)
    assert {len(tokens) for tokens in lexical_ids} == {7, 8}
