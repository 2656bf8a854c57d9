"""The benchmarks: every measure against tiny examples and brute force, and each command from end to end."""

import json
import math
import shutil
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gram.benchmarks import catalogues, cold_items, incremental, lexical_ids, scale, ties, translation
from gram.benchmarks import generation as generation_benchmark
from gram.benchmarks import quality as quality_benchmark
from gram.benchmarks import serving as serving_benchmark
from gram.benchmarks import trie as trie_benchmark
from gram.benchmarks.measuring import GB, Machine
from gram.data import read_folder
from gram.reproduction import quickstart
from gram.serving.recommendation import Recommender
from gram.translation import TranslationSettings, train_vocabulary, translate

from .conftest import QUICKSTART_RECIPE

IDS = [["nail", "red"], ["nail", "red", "0"], ["nail", "blue"], ["hair", "dry"], ["hair"]]
COLOURS = st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=4), st.integers(0, 2)), min_size=1, max_size=20)


@pytest.fixture
def benchmark_folder(data_folder, data, tmp_path):
    """The tiny data folder, one item without category, with given lexical IDs; and the tokenizer they are made of."""
    folder = shutil.copytree(data_folder, tmp_path / "data")
    lines = (folder / "item_text.tsv").read_text(encoding="utf-8").splitlines()
    lines[4] = "\t".join([*lines[4].split("\t")[:3], ""])
    (folder / "item_text.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = train_vocabulary(data.items.texts, 400)
    words.save_pretrained(tmp_path / "words")
    settings = TranslationSettings(num_clusters=4, depth=3, num_similar=0, seed=1)
    given_ids = translate(data, words, settings, progress=False).catalogue["lexical_id"].to_pylist()
    lines = [f"{item} |{'|'.join(tokens)}" for item, tokens in zip(data.items.item_ids, given_ids, strict=True)]
    (folder / "lexical_ids.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder, tmp_path / "words"


def data_of(folder, items):
    (folder / "item_text.tsv").write_text(items, encoding="utf-8")
    (folder / "user_sequence.txt").write_text("u a a a\n", encoding="utf-8")
    return read_folder(folder)


def test_categories_are_first_paths(tmp_path):
    items = "asin\ttitle\tcategories\nb\tB\tBeauty > Lips | Toys\na\tA\t\nc\tC\tBeauty > Lips\n"
    data = data_of(tmp_path, items)
    found = dict(zip(data.items.item_ids, lexical_ids.categories_of(data), strict=True))
    assert found == {"a": "", "b": "Beauty > Lips", "c": "Beauty > Lips"}


@pytest.mark.parametrize(
    ("items", "says"), [("asin\ttitle\na\tA\n", "no column"), ("asin\ttitle\tcategories\na\tA\t\n", "no item")]
)
def test_data_without_categories_are_refused(tmp_path, items, says):
    with pytest.raises(ValueError, match=says):
        lexical_ids.categories_of(data_of(tmp_path, items))


def test_clusters_are_the_leading_tokens():
    assert lexical_ids.leading_tokens(IDS, 1) == [("nail",)] * 3 + [("hair",)] * 2
    assert lexical_ids.leading_tokens(IDS, 2)[3:] == [("hair", "dry"), ("hair",)]


def test_shared_tokens_of_an_example():
    shared, pairs = lexical_ids.shared_tokens(IDS, ["x", "x", "x", "y", "y"])
    assert shared.tolist() == [2 + 1 + 1, 1]
    assert pairs.tolist() == [3, 1]
    assert lexical_ids.mean_over_pairs(shared, pairs) == 5 / 4


def test_items_that_are_alone_have_no_shared_tokens():
    alone = lexical_ids.shared_tokens(IDS[:2], ["x", "y"])
    assert lexical_ids.mean_over_pairs(*alone) is None


@given(COLOURS)
def test_shared_tokens_are_those_of_every_pair(items):
    ids, groups = zip(*items, strict=True)
    order = list(dict.fromkeys(groups))
    expected = np.zeros((2, len(order)), dtype=int)
    for (first, group), (second, other) in combinations(items, 2):
        if group == other:
            same = [a == b for a, b in zip(first, second, strict=False)]
            expected[:, order.index(group)] += (*[same.index(False) if False in same else len(same)], 1)
    assert np.array_equal(lexical_ids.shared_tokens(ids, groups), expected)


def test_purity_of_an_example():
    assert lexical_ids.purity(["x", "x", "x", "y", "y"], [1, 1, 2, 2, 3]) == 3 / 5
    assert lexical_ids.purity("abcd", [1, 1, 2, 2]) == 1
    assert lexical_ids.purity("xxxx", [1, 1, 2, 3]) == 1 / 2


def test_mutual_information_of_examples():
    classes = [1, 1, 2, 2]
    for information in (lexical_ids.normalised_mutual_information, lexical_ids.adjusted_mutual_information):
        assert information([("b", "c"), ("b", "c"), ("a",), ("a",)], classes) == pytest.approx(1)
    crossed = ["a", "b", "a", "b"]
    assert lexical_ids.normalised_mutual_information(crossed, classes) == pytest.approx(0, abs=1e-12)
    # Each item a cluster: information ln 2 of entropies ln 4 and ln 2, and all of it what chance would give.
    assert lexical_ids.normalised_mutual_information("abcd", classes) == pytest.approx(2 / 3)
    assert lexical_ids.adjusted_mutual_information("abcd", classes) == pytest.approx(0, abs=1e-12)


def test_items_without_category_count_in_the_tree_only():
    found = lexical_ids.measure(IDS, ["x", "x", "", "y", "y"])
    assert (found["items"], found["duplicates"], found["suffixed"]) == (5, 0, 1)
    assert found["levels"][0] == {"level": 1, "nodes": 2, "mean_fan_out": 2.0, "max_fan_out": 2}
    assert (found["items_without_category"], found["categories"]) == (1, 2)
    assert found["shared_tokens"] == 3 / 2
    assert [found["agreement"][length]["clusters"] for length in (1, 2)] == [2, 3]


def test_own_ids_are_compared_with_given_ones(benchmark_folder, tmp_path, capsys):
    folder, words = benchmark_folder
    output = tmp_path / "found.json"
    shape = ["--num-clusters", "4", "--depth", "3", "--encoders", "tfidf-svd"]
    lexical_ids.main(["--data", str(folder), "--tokenizer", str(words), "--output", str(output), *shape])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["", "lexical_ids.txt", "tfidf-svd"]
    assert all(row.count("|") == 4 for row in rows)
    found = json.loads(output.read_text(encoding="utf-8"))
    assert found["settings"]["num_clusters"] == 4
    for of_set in found["lexical_ids"].values():
        assert (of_set["items"], of_set["duplicates"]) == (30, 0)
        assert (of_set["items_without_category"], of_set["categories"]) == (1, 3)
        assert 0 < of_set["agreement"]["1"]["purity"] <= of_set["agreement"]["2"]["purity"] <= 1


def test_bad_data_are_one_line(data_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        lexical_ids.main(["--data", str(tmp_path / "none"), "--tokenizer", "t5-small"])
    assert "no such folder" in capsys.readouterr().err.splitlines()[-1]


def test_synthetic_items_are_the_first_ones_of_a_larger_catalogue():
    few, many = (translation.synthetic_kinds(count) for count in (300, translation.BLOCK + 300))
    assert np.array_equal(few, many[:300])
    vectors, texts = translation.synthetic_vectors(many), translation.synthetic_texts(many)
    assert np.array_equal(translation.synthetic_vectors(few), vectors[:300])
    assert translation.synthetic_texts(few) == texts[:300]
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(texts) == len(many)
    lengths = {text.count(" ") + 1 for text in texts}
    assert lengths == set(range(translation.SHORTEST, translation.LONGEST + 1))


def test_synthetic_items_of_a_cluster_are_alike():
    kinds = np.repeat([[3, 1], [3, 40], [150, 1]], 2, axis=0)
    vectors = translation.synthetic_vectors(kinds)
    same, near, far = (float(vectors[0] @ vectors[other]) for other in (1, 2, 4))
    assert same > near > far
    words = [set(text.split()) for text in translation.synthetic_texts(np.repeat([[3, 1], [150, 1]], 200, axis=0))]
    within = np.mean([len(words[row] & words[row + 1]) for row in range(199)])
    across = np.mean([len(words[row] & words[row + 200]) for row in range(199)])
    assert within > across + 1


def test_synthetic_words_are_distinct():
    words = translation.synthetic_words()
    assert len(set(words)) == len(words) == translation.NUM_WORDS


def test_the_total_leaves_the_data_out():
    sizes = {"make the data": (9.0, 9.0), "cluster": (1.0, 2.0), "name": (2.0, 1.0)}
    stages = [
        {"stage": stage, "seconds": seconds, "cpu_seconds": seconds, "peak_gb": peak, "worker_peak_gb": 0.0}
        for stage, (seconds, peak) in sizes.items()
    ]
    total = translation.with_total(stages)["translation"]
    assert (total["seconds"], total["peak_gb"]) == (3.0, 2.0)


def test_the_translation_is_measured_in_a_process_of_its_own(benchmark_folder, tmp_path, capsys):
    output, tokenizer = tmp_path / "scale", str(benchmark_folder[1])
    translation.main(["--items", "160", "--output-dir", str(output), "--tokenizer", tokenizer])
    assert "| translation | " in capsys.readouterr().out
    (large,) = json.loads((output / "translation.json").read_text(encoding="utf-8"))["results"]
    assert {path.name for path in output.iterdir()} == {"items-160.json", "translation.json"}
    translation.measure(40, tokenizer, None, tmp_path)
    results = [json.loads((tmp_path / "items-40.json").read_text(encoding="utf-8")), large]
    assert [(result["items"], result["duplicates"]) for result in results] == [(40, 0), (160, 0)]
    for result in results:
        assert all(stage["seconds"] > 0 and stage["peak_gb"] > 0 for stage in result["stages"])
    rows = [line.strip("| ").split(" | ") for line in translation.as_table(results).splitlines()]
    names = ["make the data", "cluster", "name", "neighbours", "write", "translation"]
    assert [row[0] for row in rows[2:]] == names
    assert all(len(row) == len(rows[0]) for row in rows)


def test_a_process_that_fails_is_reported():
    with pytest.raises(RuntimeError, match="ended with code 1"):
        translation.in_fresh_process(math.sqrt, -1)


def test_random_lexical_ids_are_distinct_and_share_prefixes():
    ids = catalogues.random_ids(2000, vocab_size=1000, seed=1)
    assert (ids.shape, ids.dtype) == ((2000, 8), np.int32)
    assert len(np.unique(ids, axis=0)) == 2000
    assert (ids[:, -1] == 1).all()
    assert ids[:, :-1].min() >= 3
    assert ids.max() < 1000
    assert len(np.unique(ids[:, 0])) == 20
    assert len(np.unique(ids[:, :2], axis=0)) <= 400
    assert np.array_equal(ids, catalogues.random_ids(2000, vocab_size=1000, seed=1))


def test_a_prefix_table_holds_every_continuation():
    table = catalogues.prefix_table(np.array([[4, 5, 1], [4, 6, 1], [7, 5, 1]]))
    assert table == {(): [4, 7], (4,): [5, 6], (7,): [5], (4, 5): [1], (4, 6): [1], (7, 5): [1]}


def test_tries_are_built_and_stepped_through(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trie_benchmark, "in_fresh_process", lambda function, *given: function(*given))
    arguments = ["--items", "30", "60", "--plain-items", "30"]
    trie_benchmark.main([*arguments, "--repeats", "1", "--output-dir", str(tmp_path)])
    found = json.loads((tmp_path / "trie.json").read_text(encoding="utf-8"))
    assert [build["items"] for build in found["builds"]] == [30, 60]
    assert ["plain_step_beside" in build for build in found["builds"]] == [True, False]
    assert {path.name for path in tmp_path.iterdir()} == {"trie.json"}
    assert all(build["step_seconds"] > 0 for build in found["builds"])
    assert sum(line.startswith(("| 30 ", "| 60 ")) for line in capsys.readouterr().out.splitlines()) == 2


@pytest.fixture(scope="module")
def bench(data_folder, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    shape = {"vocab_size": len(tokenizer), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    return generation_benchmark.Bench(data_folder, folder, **shape)


def test_generate_returns_what_stock_beam_search_returns(bench):
    machine = Machine(flops=1e9, bytes=1e9)
    for batch, length in ((1, 3), (4, 5)):
        row = generation_benchmark.against_stock(bench, machine, batch, length, repeats=1)
        assert row["same_items"]
        assert row["score_difference"] < 1e-5
    users = bench.users(12)
    bench.encode_items(users)
    for history in users:
        found = bench.ours([history])()
        agreement = generation_benchmark.agreement(bench.stock([history])(), found)
        assert agreement["same_items"]
        assert agreement["score_difference"] < 1e-5
        plain = generation_benchmark.plain_scores(bench, history, found.item_indices[0])
        torch.testing.assert_close(found.sequences_scores, plain, rtol=0, atol=1e-5)


def test_the_floor_of_generation_grows_with_beams_and_history(bench):
    def work(length, beams):
        return bench.work(bench.users(1, length), beams)[0]

    assert work(2, 10) < work(2, 20) < work(6, 20)


def test_ways_to_search_are_compared_with_the_truly_best_items(model_folder, data_folder):
    users = quality_benchmark.Users(str(model_folder), data_folder, 20)
    rows = {row["way"]: row for row in quality_benchmark.compare(users)}
    assert rows["exact"]["best_found"] == rows["trie scores, exact"]["best_found"] == 1
    assert rows["200 beams"]["best_missed_by"] == 0  # as many beams as there are items
    assert rows["10 beams"]["best_found"] <= rows["200 beams"]["best_found"]
    assert rows[quality_benchmark.REFERENCE]["equal_top_10"] == 1
    assert rows[quality_benchmark.REFERENCE]["ndcg@10_change"] == 0
    table = quality_benchmark.as_table(list(rows.values()))
    assert len(table.splitlines()) == 2 + len(quality_benchmark.WAYS)


def test_an_answer_is_right_tied_or_wrong():
    request = serving_benchmark.Request(b"", [[("a", -1.0), ("b", -2.0), ("c", -2.0)]])

    def judged(*items):
        found = [{"item_id": item, "title": "", "score": score} for item, score in items]
        return request.judge(json.dumps({"recommendations": [found]}).encode())

    assert judged(("a", -1.0), ("b", -2.000001), ("c", -2.0)) == serving_benchmark.RIGHT
    assert judged(("a", -1.0), ("c", -2.0), ("b", -2.0)) == serving_benchmark.TIED
    assert judged(("a", -1.0), ("b", -2.1), ("c", -2.0)) == serving_benchmark.WRONG
    assert judged(("a", -1.0), ("b", -2.0)) == serving_benchmark.WRONG


def test_the_server_is_measured_beside_one_that_takes_user_by_user(
    quickstart_run, forked_server, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(serving_benchmark, "Server", forked_server)
    folder, arguments = quickstart_run[0], ["--clients", "4", "--seconds", "1", "--requests", "5"]
    data = ["--data", str(folder / "data")]
    serving_benchmark.main([str(folder), *data, *arguments, "--output-dir", str(tmp_path)])
    found = json.loads((tmp_path / "serving.json").read_text(encoding="utf-8"))
    assert found["exit_codes"] == [0, 0]
    for name in ("batched", "plain"):
        assert found[name]["requests"] == found[name]["answers"][serving_benchmark.RIGHT] > 0
        assert set(found[name]["answers"]) == {serving_benchmark.RIGHT}
        assert 0 < found[name]["p50_ms"] <= found[name]["p99_ms"]
    assert found["times_plain"] > 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == ["server", "---", "dynamic batches", "one user at a time"]


def test_the_spread_over_ties_is_that_of_whole_quickstarts(films_wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "fetch_wheel", lambda: films_wheel)
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "ties"
    recipe.write_text(QUICKSTART_RECIPE)
    ties.main(["--output-dir", str(output), "--config", str(recipe), "--seeds", "2"])
    written = json.loads((output / "ties.json").read_text(encoding="utf-8"))
    found = written["ndcg@10"]
    assert list(found) == ["GRAM", "SASRec", "item-kNN", "transition-graph", "popularity"]
    for seed in range(2):
        evaluated = json.loads((output / f"ties-{seed}" / "evaluation.json").read_text(encoding="utf-8"))["models"]
        for model, protocols in found.items():
            for protocol, values in protocols.items():
                assert values[seed] == evaluated[model][protocol]["ndcg@10"]["mean"]
    one, other = (read_folder(output / f"ties-{seed}" / "data").interactions for seed in range(2))
    assert not np.array_equal(one.items, other.items)
    assert all(np.array_equal(np.sort(some), np.sort(mixed)) for some, mixed in zip(one, other, strict=True))
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| SASRec "))
    values = found["SASRec"]["all_items"]
    assert f"| {np.mean(values):.4f} +- {np.std(values, ddof=1):.4f} |" in row
    assert list(written["leads"]) == [model for model in found if model != "GRAM"]
    for model, protocols in written["leads"].items():
        for protocol, lead in protocols.items():
            mean = np.mean(found["GRAM"][protocol]) - np.mean(found[model][protocol])
            assert lead["mean"] == pytest.approx(mean)
            assert lead["low"] < lead["mean"] < lead["high"]


def test_a_large_catalogue_is_measured_with_and_without_its_tokenizer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale, "in_fresh_process", lambda run, *arguments: run(*arguments))
    for name, value in {"CONDITIONS": 3, "ENCODED": 20, "REPEATS": 2}.items():
        monkeypatch.setattr(scale, name, value)
    flags = ["--items", "300", "500", "--tokens", "4", "--additions", "0.1", "--output-dir", str(tmp_path)]
    scale.main(flags)
    found = json.loads((tmp_path / "scale.json").read_text(encoding="utf-8"))
    assert [size["items"] for size in found["sizes"]] == [300, 500]
    assert [size["cache_gb"] * GB for size in found["sizes"]] == pytest.approx([300 * 4 * 132, 500 * 4 * 132])
    for size in found["sizes"]:
        seconds = [*size["first_seconds"].values(), *size["later_seconds"].values(), size["many_seconds"]]
        assert len(seconds) == 2 * len(scale.SHARES) + 1
        assert min(*seconds, size["cold_seconds"], size["warm_seconds"], *found["cost"].values()) > 0
    assert [size["added"] for size in found["sizes"]] == [30, 50]
    assert [path.name for path in tmp_path.iterdir()] == ["scale.json"]
    scale.main([*flags, "--without-tokenizer"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| 300", "| 500"))]
    assert [row.split("|")[4].strip() == "-" for row in rows] == [False, False, True, True]


def test_cold_items_are_held_out_added_and_looked_for(data_folder, tmp_path, capsys):
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "cold"
    recipe.write_text(QUICKSTART_RECIPE)
    flags = ["--data", str(data_folder), "--output-dir", str(output), "--share", "0.2", "--config", str(recipe)]
    cold_items.main(flags)
    found = json.loads((output / "cold_items.json").read_text(encoding="utf-8"))
    warm, whole = read_folder(output / "warm"), read_folder(data_folder)
    cold = set(whole.items.item_ids) - set(warm.items.item_ids)
    assert len(cold) == found["cold"]["items"] == 6
    assert sum(found["cold"]["users"].values()) == len(whole.interactions)
    before, after, *reserved, texts = found["rows"].values()
    assert before["cold"]["mean"] == 0
    assert before["share of cold items"] == 0
    assert after["cold"]["mean"] > 0, "fifty are all of them"
    assert after["share of cold items"] > 0
    assert all(of["cold"]["mean"] > 0 for of in (*reserved, texts))
    models = Recommender.from_pretrained(output / "trained"), Recommender.from_pretrained(output / "added")
    assert set(models[1].tokenizer.item_ids) - set(models[0].tokenizer.item_ids) == cold
    assert sum(line.startswith("| ") for line in capsys.readouterr().out.splitlines()) == 5 + len(
        cold_items.COLD_SHARES
    )
    cold_items.main(flags)  # nothing is done again
    assert json.loads((output / "cold_items.json").read_text(encoding="utf-8"))["rows"] == found["rows"]


def test_a_model_goes_on_with_a_newer_log_and_is_measured_against_new_ones(data_folder, tmp_path, capsys):
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "incremental"
    recipe.write_text(QUICKSTART_RECIPE)
    flags = ["--data", str(data_folder), "--output-dir", str(output), "--config", str(recipe)]
    incremental.main(flags)
    found, whole = json.loads((output / "incremental.json").read_text(encoding="utf-8")), read_folder(data_folder)
    earlier = read_folder(output / "earlier-log")
    assert np.array_equal(earlier.interactions.lengths, whole.interactions.lengths - 2)
    assert set(whole.items.item_ids) - set(earlier.items.item_ids) == set(
        pq.read_table(output / "new.parquet")["item_id"].to_pylist()
    )
    assert found["users"] == len(whole.interactions)
    assert all(0 < of["recall@10"]["mean"] <= 1 for of in found["rows"].values())
    assert sum(line.startswith("| ") for line in capsys.readouterr().out.splitlines()) == len(found["rows"]) + 2
