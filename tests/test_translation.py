"""The translation of a catalogue: unique IDs in valid tokens, whatever the texts, and the same ones every time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from transformers import AutoTokenizer, T5Tokenizer

from gram.common.extras import MissingPackageError
from gram.data import Interactions, ItemTable, RecommendationData, read_folder, training_part
from gram.tokenization_gram import CATALOGUE_SCHEMA, COUNTS, GramTokenizer
from gram.translation import TranslationSettings, TreeStatistics, train_vocabulary, translate
from gram.translation.embedding import embed_texts
from gram.translation.hierarchy import cluster_hierarchy, k_means
from gram.translation.lexical_ids import _Namer, name_items
from gram.trie_gram import ItemTrie

SHARED = Path(__file__).parents[1].parent / "shared"
PROMPTS = ["What would user purchase after ; ?", "item: similar items: ,"]
KINDS = [
    "red lipstick",
    "blue nail polish",
    "dry hair shampoo",
    "wooden comb",
    "rose body lotion",
    "eye shadow palette",
]
TEXTS = [f"title: {kind} number {i}; brand: {'Glow Kiss Acme'.split()[i % 3]}" for i in range(8) for kind in KINDS]
SMALL = {"sasrec_dim": 8, "sasrec_epochs": 1}


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary(TEXTS + PROMPTS, 400)


def catalogue_of(texts, sequences=((0, 1, 2, 3, 4), (2, 3, 4, 5, 6), (5, 1, 7, 9, 8))):
    items = ItemTable([f"i{row}" for row in range(len(texts))], list(texts), list(texts))
    users = [f"u{user}" for user in range(len(sequences))]
    return RecommendationData(items, Interactions.from_sequences(users, sequences))


def lexical_ids_of(texts, tokenizer, num_clusters=4, depth=3, seed=0):
    paths = cluster_hierarchy(embed_texts(texts, seed=seed), num_clusters, depth, seed)
    return name_items(paths, texts, tokenizer)


def check(lexical_ids, tokenizer, count):
    assert len(lexical_ids) == count
    assert len(set(map(tuple, lexical_ids))) == count
    usable = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
    for tokens in lexical_ids:
        assert tokens
        assert set(tokens) <= usable
        path = [token for token in tokens if len(token.replace("▁", "")) > 1]
        suffix = tokens[len(path) :]
        assert tokens == path + suffix
        assert len(set(path)) == len(path)
        assert all(token.replace("▁", "").isdigit() for token in suffix)


def test_a_translation_is_one_row_per_item_in_catalogue_order(vocabulary):
    result = translate(
        catalogue_of(TEXTS),
        vocabulary,
        TranslationSettings(num_clusters=4, depth=3, num_similar=5, **SMALL),
        progress=False,
    )
    assert result.catalogue.schema == CATALOGUE_SCHEMA.append(pa.field(COUNTS, pa.int64()))
    counts = np.bincount(training_part(catalogue_of(TEXTS)).items, minlength=len(TEXTS))
    assert result.catalogue[COUNTS].to_pylist() == counts.tolist()
    rows = result.catalogue.to_pylist()
    assert [row["item_id"] for row in rows] == [f"i{i}" for i in range(len(TEXTS))]
    check([row["lexical_id"] for row in rows], vocabulary, len(TEXTS))
    for row in rows:
        assert len(set(row["similar_items"])) == 5
        assert row["item_id"] not in row["similar_items"]
    assert result.sasrec.num_items == len(TEXTS)


@pytest.mark.parametrize("of_sasrec", [{}, {"sasrec_texts": True}, {"sasrec_in_clusters": 0.5}])
def test_the_validation_and_test_items_of_users_change_nothing(vocabulary, of_sasrec):
    sequences = [(0, 1, 2, 3, 4), (2, 3, 4, 5, 6), (5, 1, 7, 9, 8)]
    others = [(*sequence[:-2], 20 + user, 30 + user) for user, sequence in enumerate(sequences)]
    chosen = TranslationSettings(num_clusters=4, depth=3, **SMALL, **of_sasrec)
    one, two = (translate(catalogue_of(TEXTS, s), vocabulary, chosen, progress=False) for s in (sequences, others))
    assert one.catalogue.equals(two.catalogue)
    for name, weight in one.sasrec.state_dict().items():
        assert weight.equal(two.sasrec.state_dict()[name]), name


def test_the_training_items_of_users_do_count(vocabulary):
    chosen = TranslationSettings(num_clusters=4, depth=3, **SMALL)
    one, two = (
        translate(catalogue_of(TEXTS, s), vocabulary, chosen, progress=False)
        for s in ([(0, 1, 2, 3, 4)], [(9, 8, 7, 3, 4)])
    )
    assert one.catalogue["lexical_id"].equals(two.catalogue["lexical_id"])
    assert not one.sasrec.items.weight.equal(two.sasrec.items.weight)


def test_with_a_share_of_the_sasrec_items_of_the_same_users_are_in_one_cluster(vocabulary):
    random = np.random.default_rng(0)
    crowds = [range(0, 12), range(12, 24)]  # of items whose texts tell nothing of it
    sequences = [random.permutation(crowds[user % 2])[:9].tolist() for user in range(400)]
    catalogue = catalogue_of([TEXTS[item % len(TEXTS)] for item in range(24)] + TEXTS[:2], sequences)

    def first_words(share: float) -> list[set[str]]:
        chosen = TranslationSettings(
            num_clusters=2, depth=7, num_similar=2, sasrec_in_clusters=share, sasrec_dim=8, sasrec_epochs=20
        )
        result = translate(catalogue, vocabulary, chosen, progress=False)
        words = [tokens[0] for tokens in result.catalogue["lexical_id"].to_pylist()]
        return [{words[item] for item in crowd} for crowd in crowds]

    one, other = first_words(1.0)
    assert one.isdisjoint(other)
    one, other = first_words(0.0)
    assert one & other


def test_a_share_of_a_sasrec_that_there_is_not_is_refused():
    for without in ({"num_similar": 0}, {"similar_items": "item-knn"}):
        with pytest.raises(ValueError, match="and there is no SASRec"):
            TranslationSettings(sasrec_in_clusters=0.5, **without)


def test_the_same_seed_gives_the_same_ids(vocabulary):
    assert lexical_ids_of(TEXTS, vocabulary) == lexical_ids_of(TEXTS, vocabulary)


def test_without_a_number_of_clusters_the_catalogue_gives_one(vocabulary):
    catalogue = catalogue_of([f"{text} {number}" for number in range(5) for text in TEXTS[:13]])  # 65 items
    own, eight = (
        translate(catalogue, vocabulary, TranslationSettings(num_clusters=of, depth=3, num_similar=0), progress=False)
        for of in (None, 8)
    )
    assert own.catalogue.equals(eight.catalogue)


@settings(max_examples=40)
@given(
    texts=st.lists(
        st.one_of(
            st.sampled_from(TEXTS),
            st.sampled_from(["", " ", "a", "!!!", "💄💅", "أحمر شفاه", "שפתון אדום", "red", "e\u0301 ﬁ", "1 2 3"]),
            st.text(min_size=1, max_size=30),
        ),
        min_size=1,
        max_size=40,
    ),
    num_clusters=st.integers(2, 6),
    depth=st.integers(1, 4),
)
def test_ids_are_unique_and_valid_for_any_texts(vocabulary, texts, num_clusters, depth):
    lexical_ids = lexical_ids_of(texts, vocabulary, num_clusters, depth)
    check(lexical_ids, vocabulary, len(texts))
    statistics = TreeStatistics.of(lexical_ids)
    assert (statistics.items, statistics.duplicates) == (len(texts), 0)


@pytest.mark.parametrize("texts", [["red lipstick"], ["red lipstick"] * 2, ["red lipstick"] * 300, ["💄"] * 12])
def test_items_that_cannot_be_told_apart_get_numbers(vocabulary, texts):
    lexical_ids = lexical_ids_of(texts, vocabulary)
    check(lexical_ids, vocabulary, len(texts))
    if len(texts) == 12:  # no token that may name anything: numbers in catalogue order
        assert ["".join(tokens).replace("▁", "") for tokens in lexical_ids] == [str(i) for i in range(12)]


def test_a_vocabulary_without_digits_is_refused_where_a_number_is_needed():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁red", -1.0)]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    assert lexical_ids_of(["red"], tokenizer) == [["▁red"]]
    with pytest.raises(ValueError, match="no token for the digit 0"):
        lexical_ids_of(["red", "red"], tokenizer)


@pytest.mark.parametrize(
    "texts",
    [["red lipstick"], ["red lipstick"] * 2, [""] * 5, ["red"] * 7 + [""], ["💄 💅", "شفاه"], TEXTS[:1] * 300, TEXTS],
    ids=["one item", "two alike", "no text", "one word", "emoji and Arabic", "300 of the same words", "many"],
)
def test_every_item_is_found_again_by_its_id(vocabulary, texts):
    lexical_ids = lexical_ids_of(texts, vocabulary)
    names = [f"item {row}" for row in range(len(texts))]
    columns = [names, texts, texts, lexical_ids, [[] for _ in texts]]
    tokenizer = GramTokenizer.from_catalogue(vocabulary, pa.table(columns, schema=CATALOGUE_SCHEMA))
    trie = ItemTrie.from_sequences(tokenizer.sequences)
    assert sorted(item for item in trie.items.tolist() if item >= 0) == list(range(len(texts)))
    for row, sequence in enumerate(tokenizer.sequences):
        padded = [[tokenizer.pad_token_id, *sequence]]
        assert tokenizer.decode_items(padded) == [[names[row]]]


@settings(max_examples=30)
@given(
    texts=st.lists(st.sampled_from([*TEXTS, "", "red", "red comb"]), min_size=1, max_size=60),
    max_fan_out=st.integers(2, 12),
)
def test_no_beginning_of_an_id_goes_on_with_more_tokens_than_allowed(vocabulary, texts, max_fan_out):
    paths = cluster_hierarchy(embed_texts(texts), 8, 3)
    lexical_ids = name_items(paths, texts, vocabulary, max_fan_out=max_fan_out)
    check(lexical_ids, vocabulary, len(texts))
    children = {}
    for tokens in lexical_ids:
        for depth, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:depth]), set()).add(token)
    digits = set("0123456789")
    assert all(len(below - digits) <= max_fan_out for below in children.values())


def test_blocked_words_are_in_no_id(vocabulary, tmp_path):
    shown = {token.strip("▁").lower() for tokens in lexical_ids_of(TEXTS, vocabulary) for token in tokens}
    words = sorted(word for word in shown if len(word) > 1)[:5]
    (tmp_path / "words.txt").write_text("# not to be shown\n\n" + "\n".join(words).upper() + "\n", "utf-8")
    chosen = TranslationSettings(num_clusters=4, depth=3, num_similar=0, blocked_tokens=str(tmp_path / "words.txt"))
    result = translate(catalogue_of(TEXTS), vocabulary, chosen, progress=False)
    lexical_ids = result.catalogue["lexical_id"].to_pylist()
    check(lexical_ids, vocabulary, len(TEXTS))
    assert not {token.strip("▁").lower() for tokens in lexical_ids for token in tokens} & set(words)
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"words\.txt:1: not UTF-8"):
        translate(catalogue_of(TEXTS), vocabulary, chosen, progress=False)


@settings(max_examples=60)
@given(
    wishes=st.lists(st.lists(st.integers(0, 6), max_size=5, unique=True), min_size=1, max_size=12),
    groups=st.lists(st.integers(0, 2), min_size=12, max_size=12),
    seed=st.integers(0, 99),
)
def test_tokens_go_where_they_weigh_most(wishes, groups, seed):
    draw = np.random.default_rng(seed)
    pairs = [sorted((-float(draw.integers(1, 4)), token) for token in tokens) for tokens in wishes]
    offsets = np.cumsum([0, *map(len, pairs)])
    flat = [pair for node in pairs for pair in node]
    weights, tokens = np.array([-weight for weight, _ in flat]), np.array([token for _, token in flat], np.int32)
    candidates = sparse.csr_matrix((weights, tokens, offsets), (len(wishes), 7))
    rows, groups = np.arange(len(wishes)), np.array(groups[: len(wishes)])
    no_ancestors = np.zeros((len(rows), 0), np.int32)
    found = _Namer(candidates, rows, groups, no_ancestors, np.ones(len(rows), int)).names(True, 100)
    names, taken = {}, set()
    for _, token, node in sorted((w, token, node) for node, wish in enumerate(pairs) for w, token in wish):
        if node not in names and (groups[node], token) not in taken:
            names[node] = token
            taken.add((groups[node], token))
    for node, token in enumerate(found.tolist()):
        # Who gets none of its own shares the one that it wants most.
        assert token == names.get(node, pairs[node][0][1] if pairs[node] else -1)


def test_clusters_of_one_parent_have_names_of_their_own(vocabulary):
    paths = cluster_hierarchy(embed_texts(TEXTS), 4, 3)
    lexical_ids = name_items(paths, TEXTS, vocabulary)
    names = {}
    for cluster, tokens in zip(paths[:, 0], lexical_ids, strict=True):
        names.setdefault(int(cluster), set()).add(tokens[0])
    assert all(len(tokens) == 1 for tokens in names.values())
    assert len(set.union(*names.values())) == len(names)


def test_a_cluster_is_split_until_it_is_small_enough():
    vectors = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    paths = cluster_hierarchy(vectors, 5, 8)
    children = {}
    for path in paths.tolist():
        for level, child in enumerate(path):
            if child >= 0:
                children.setdefault(tuple(path[:level]), []).append(child)
    assert len(set(map(tuple, paths.tolist()))) == 300
    for node, below in children.items():  # one entry per item
        if len(below) > 5:
            assert 2 <= len(set(below)) <= 5, node
        elif len(below) > 1:
            assert len(set(below)) == len(below), node
    assert max(map(len, children.values())) == 300
    assert all((np.diff((path >= 0).astype(int)) <= 0).all() for path in paths)  # -1 only at the end


def test_splitting_ends_at_the_depth():
    vectors = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    paths = cluster_hierarchy(vectors, 2, 3)
    assert paths.shape == (100, 3)
    assert len({tuple(path) for path in paths}) <= 8


def test_items_with_the_same_vector_are_split_evenly():
    paths = cluster_hierarchy(np.ones((9, 4), np.float32), 3, 3)
    assert paths[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert paths[:, 1].tolist() == [0, 1, 2] * 3
    assert (paths[:, 2] == -1).all()


def test_workers_change_nothing():
    vectors = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
    one, two = (cluster_hierarchy(vectors, 4, 5, num_workers=workers) for workers in (1, 2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("library", ["scikit-learn", "faiss"])
def test_an_item_is_in_the_cluster_that_is_nearest(library, monkeypatch):
    monkeypatch.setattr("gram.translation.hierarchy.FAISS_ITEMS", 100 if library == "faiss" else 10**9)
    vectors = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    paths = cluster_hierarchy(vectors, 5, 4)
    assert len(np.unique(paths[:, 0])) == 5
    assert (paths >= 0).any(axis=0).sum() >= 3
    labels, centroids = k_means(vectors, 5, [0])
    assert np.array_equal(labels, paths[:, 0])
    assert np.array_equal(((vectors[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1), labels)


@pytest.mark.parametrize("texts", [["red"], ["red", "red"], ["💄", "💅 💄"], ["!", "?"], TEXTS, TEXTS * 10])
def test_the_built_in_vectors_have_length_one(texts):
    vectors = embed_texts(texts)
    assert vectors.shape[0] == len(texts)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-5) | (lengths == 0))
    if texts[0] != "!":
        assert (lengths > 0).all()


def test_similar_texts_have_similar_vectors():
    red, also_red, comb = embed_texts(["red lipstick matte", "red lipstick gloss", "wooden comb"])
    assert red @ also_red > red @ comb


def test_a_missing_encoder_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingPackageError, match=r"some/model.*\[sentence-transformers\]"):
        embed_texts(["red"], encoder="some/model")


def test_a_catalogue_too_large_without_faiss_is_refused_before_the_work(monkeypatch, data, tokenizer, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    monkeypatch.setattr("gram.translation.catalogue.EXACT_ITEMS", len(data.items) - 1)
    with pytest.raises(MissingPackageError, match=r"a catalogue of 30 items needs faiss.*\[faiss\]"):
        translate(data, tokenizer, TranslationSettings(num_clusters=4, depth=2), folder=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_an_own_vocabulary_writes_its_texts_without_unknowns(vocabulary):
    assert (vocabulary.pad_token_id, vocabulary.eos_token_id, vocabulary.unk_token_id) == (0, 1, 2)
    for text in (TEXTS[0], TEXTS[0].lower(), PROMPTS[0], "0 12 345"):
        ids = vocabulary(text)["input_ids"]
        assert ids[-1] == 1
        assert 2 not in ids
    assert set("0123456789") <= vocabulary.get_vocab().keys()


def test_a_vocabulary_is_the_same_every_time():
    one, two = (train_vocabulary(TEXTS, 300).backend_tokenizer.to_str() for _ in range(2))
    assert one == two


@pytest.mark.parametrize("texts", [["red", "blue", "red blue"], ["💄", "💅", "שפתון"], ["a"]])
def test_a_vocabulary_can_be_trained_on_next_to_nothing(texts):
    tokenizer = train_vocabulary(texts)
    assert all(2 not in tokenizer(text)["input_ids"] for text in texts)


def test_an_impossible_vocabulary_is_refused():
    with pytest.raises(ValueError, match="there is no text"):
        train_vocabulary(["", " "])
    with pytest.raises(ValueError, match="vocab_size 5 does not fit"):
        train_vocabulary(TEXTS, 5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("depth", 100_000),
        ("num_similar", 1_000_000),
        ("num_workers", 100_000),
        ("num_clusters", 1),
        ("depth", 0),
        ("num_similar", -1),
        ("vocab_size", 3),
        ("seed", 0.5),
        ("encoder", ""),
    ],
)
def test_a_setting_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        TranslationSettings(**{field: value})


@pytest.fixture(scope="module")
def few_words():
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁red", "▁blue", *"0123456789"]
    return T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "item_text.tsv").write_text("asin\ttitle\n" + "".join(f"{i}\tred {i}\n" for i in "ABC"), "utf-8")
    (tmp_path / "user_sequence.txt").write_text("ann A B C\n", "utf-8")
    (tmp_path / "lexical_ids.txt").write_text("A |▁red\nB |▁blue\nC |▁red|0\n", "utf-8")
    (tmp_path / "similar_items.txt").write_text("anchor top1 top2\nA B C\nB C\nC A B\n", "utf-8")
    return tmp_path


def given(folder, name):
    return str(folder / name)


def test_given_files_are_taken_only_where_asked_for(folder, few_words):
    given_ = TranslationSettings(
        lexical_ids=given(folder, "lexical_ids.txt"), similar_items=given(folder, "similar_items.txt"), num_similar=1
    )
    result = translate(read_folder(folder), few_words, given_, progress=False)
    assert result.catalogue["lexical_id"].to_pylist() == [["▁red"], ["▁blue"], ["▁red", "0"]]
    assert result.catalogue["similar_items"].to_pylist() == [["B"], ["C"], ["A"]]
    assert result.sasrec is None
    assert result.statistics.suffixed == 1
    own = translate(read_folder(folder), few_words, TranslationSettings(**SMALL), progress=False)
    assert own.catalogue["lexical_id"].to_pylist() != result.catalogue["lexical_id"].to_pylist()


def test_a_given_token_that_is_none_is_named(folder, few_words):
    for token in ("▁zebra", "</s>"):
        (folder / "lexical_ids.txt").write_text(f"A |▁red\nB |{token}\nC |▁red|0\n", "utf-8")
        with pytest.raises(ValueError, match=rf"lexical_ids\.txt:2: item B: token '{token}' is not in the vocabulary"):
            translate(
                read_folder(folder),
                few_words,
                TranslationSettings(lexical_ids=given(folder, "lexical_ids.txt")),
                progress=False,
            )


def test_given_files_that_are_not_there_are_named(folder, vocabulary):
    for name in ("none.txt", "none.parquet"):
        settings_ = TranslationSettings(similar_items=given(folder, name))
        with pytest.raises(FileNotFoundError, match=name):
            translate(read_folder(folder), vocabulary, settings_, progress=False)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        settings_ = TranslationSettings(lexical_ids=given(folder, "none.txt"))
        translate(read_folder(folder), vocabulary, settings_, progress=False)


def test_statistics_count_the_tree():
    statistics = TreeStatistics.of([["▁a1", "▁b1"], ["▁a1", "▁b2", "0"], ["▁a1", "▁b2", "1"], ["▁a2"], ["▁a2"]])
    assert (statistics.items, statistics.duplicates, statistics.suffixed) == (5, 1, 2)
    assert statistics.levels == ((1, 2, 2, 2.0), (2, 2, 2, 2.0), (3, 2, 2, 2.0))
    assert len(str(statistics).splitlines()) == 5


@pytest.mark.skipif(not (SHARED / "data" / "beauty").is_dir(), reason="no ../shared: the Amazon data are not there")
def test_beauty_needs_no_suffixes():
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "t5_tokenizer")
    result = translate(read_folder(SHARED / "data" / "beauty"), tokenizer, TranslationSettings(num_similar=0))
    lexical_ids = result.catalogue["lexical_id"].to_pylist()
    check(lexical_ids, tokenizer, 12_101)
    assert result.statistics.suffixed == 0
    assert result.statistics.levels[0].nodes == 128
