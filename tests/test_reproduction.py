"""`gram reproduce`: a table from a data folder, gone on with after an interrupt, and a row made again from its file."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator

from gram.cli import main
from gram.common.provenance import hash_of_file
from gram.data.splits import sample_users
from gram.evaluation.candidates import Ranking
from gram.evaluation.full_ranking import PROTOCOLS
from gram.evaluation.rankings import interval, ndcg
from gram.reproduction.plan import BUDGET, ROWS, Plan, Run
from gram.reproduction.runs import Workspace
from gram.reproduction.stages import reproduce, rerun, save_result
from gram.reproduction.tables import join_results, results_table, write_table

from .conftest import QUICKSTART_RECIPE

DOCS = Path(__file__).parents[1] / "docs"
CHOSEN = ("gram", "without-similar-items", "popularity")
RUNS = ["gram-seed0", "gram-seed1", "popularity-seed0", "without-similar-items-seed0", "without-similar-items-seed1"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "shop.yaml"
    path.write_text(QUICKSTART_RECIPE)
    return path


@pytest.fixture(scope="module")
def plan(recipe, data_folder, tmp_path_factory):
    """Of three rows and two seeds, on the tiny data."""
    folder = tmp_path_factory.mktemp("reproduction") / "shop"
    return Plan(str(recipe), data_folder, folder, rows=CHOSEN, seeds=2, size="recipe")


@pytest.fixture(scope="module")
def reproduced(plan):
    """The folder of a reproduction that was interrupted between two rows, and what was said before and after."""
    before, after = [], []

    def say(line):
        before.append(line)
        if "without similar items, seed 0" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, say, progress=False)
    finished = (plan.output_dir / "results" / "gram-seed0.json").read_bytes()
    reproduce(plan, after.append, progress=False)
    assert (plan.output_dir / "results" / "gram-seed0.json").read_bytes() == finished
    return plan.output_dir, before, after


@pytest.fixture
def copied(reproduced, tmp_path):
    """A copy of the reproduction's folder."""
    return shutil.copytree(reproduced[0], tmp_path / "copied")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def stages(lines):
    return [line for line in lines if line[0].isdigit() and "/" in line.split()[0]]


def test_stages_that_are_done_are_skipped_after_an_interrupt(reproduced):
    _, before, after = reproduced
    first = ["1/9  translation gram", "2/9  translation num_similar=0", "3/9  GRAM, seed 0"]
    assert stages(before) == [*first, "4/9  without similar items, seed 0"]
    assert stages(after) == [
        "1/9  translation gram",
        "2/9  translation num_similar=0",
        "3/9  GRAM, seed 0: done already",
        "4/9  without similar items, seed 0",
        "5/9  popularity",
        "6/9  GRAM, seed 1",
        "7/9  without similar items, seed 1",
        "8/9  results table",
        "9/9  model card",
    ]


def test_a_finished_reproduction_is_left_as_it_is(reproduced, recipe, data_folder, capsys):
    folder = reproduced[0]
    kept = {path: path.stat().st_mtime_ns for path in [*folder.glob("results/*"), *folder.glob("runs/*/*")]}
    command = ["reproduce", str(recipe), "--data", str(data_folder), "--output-dir", str(folder)]
    assert main([*command, "--rows", *CHOSEN, "--seeds", "2", "--size", "recipe"]) == 0
    said = capsys.readouterr().out
    assert said.count("done already") == 7
    assert (folder / "results.md").read_text() in f"{said}\n"
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


HOLD = """
import sys
from gram.common.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_what_another_process_is_at_is_left_for_the_end(copied, recipe, data_folder):
    for suffix in ("json", "parquet"):
        (copied / "results" / f"popularity-seed0.{suffix}").unlink()
        (copied / "results" / f"gram-seed1.{suffix}").unlink()
    said, plan = [], Plan(str(recipe), data_folder, copied, rows=CHOSEN, seeds=2, size="recipe")
    command = [sys.executable, "-c", HOLD, str(copied / "runs" / "popularity-seed0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"

        def say(line):
            said.append(line)
            if line == "popularity, if it is not done:":
                other.stdin.close()

        reproduce(plan, say, progress=False)
    assert sorted(path.stem for path in copied.glob("results/*.json")) == RUNS
    place = said.index("5/9  popularity")
    assert said[place + 1 : place + 3] == ["     another process is at it: left for the end", "6/9  GRAM, seed 1"]
    assert said.index("popularity, if it is not done:") > said.index("7/9  without similar items, seed 1: done already")


def test_results_have_all_that_a_figure_depends_on(reproduced, data):
    folder = reproduced[0]
    assert sorted(path.stem for path in folder.glob("results/*.json")) == RUNS
    result = read(folder / "results" / "without-similar-items-seed1.json")
    assert (result["row"], result["title"], result["seed"]) == ("without-similar-items", "without similar items", 1)
    assert result["settings"]["translation"]["num_similar"] == 0
    assert result["settings"]["training"]["epochs"] == result["reproduction"]["epochs"] == 1
    assert result["reproduction"]["dataset"] == "shop"
    assert {"data", "translation", "model", "ranks"} == result["hashes"].keys()
    assert {"python", "torch", "device", "threads"} <= result["environment"].keys()
    assert (result["users"], result["num_beams"], result["data"]["items"]) == (len(data.interactions), 50, 30)
    assert {"translation", "training", "evaluation"} == result["seconds"].keys()
    assert set(result["metrics"]) == set(PROTOCOLS)


def test_ranks_of_all_users_lie_beside_the_figures(reproduced):
    path = reproduced[0] / "results" / "gram-seed1.parquet"
    table = pq.read_table(path).to_pandas()
    assert set(table["model"]) == {"gram"}
    for protocol, metrics in read(path.with_suffix(".json"))["metrics"].items():
        ranks = table[table["protocol"] == protocol]["rank"].fillna(0).to_numpy()
        assert ndcg(ranks, 10).mean() == pytest.approx(metrics["ndcg@10"]["mean"])


def test_every_row_has_the_same_budget(reproduced):
    several = [read(path) for path in sorted(reproduced[0].glob("results/*.json"))]
    assert all(result["reproduction"] == several[0]["reproduction"] for result in several)
    assert not any(set(row.changes) & set(BUDGET) for row in ROWS.values())


def test_seeds_are_averaged_and_rows_compared_user_by_user(reproduced):
    joined = read(reproduced[0] / "results.json")
    assert list(joined["rows"]) == list(CHOSEN)
    row = joined["rows"]["gram"]
    means = [
        read(reproduced[0] / f"results/gram-seed{s}.json")["metrics"]["all_items"]["ndcg@10"]["mean"] for s in (0, 1)
    ]
    value = row["metrics"]["all_items"]["ndcg@10"]
    assert (row["seeds"], value["mean"]) == ([0, 1], pytest.approx(np.mean(means)))
    assert value["spread"] == pytest.approx(np.std(means, ddof=1))
    popularity = joined["rows"]["popularity"]["metrics"]["all_items"]["ndcg@10"]
    assert popularity["spread"] is None
    apart = {(entry["row"], entry["other"], entry["protocol"]): entry for entry in joined["differences"]}
    assert len(apart) == 3 * 2
    less = apart["gram", "popularity", "all_items"]
    assert less["mean"] == pytest.approx(value["mean"] - popularity["mean"])
    assert less["low"] < less["mean"] < less["high"]


def test_the_interval_of_differences():
    apart = np.array([0.1, 0.1, 0.1, 0.3])
    found = interval(apart)
    standard_error = np.std(apart, ddof=1) / 2
    assert found["mean"] == pytest.approx(0.15)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * standard_error)


def test_the_card_shows_the_results(reproduced):
    model = reproduced[0] / "runs" / "gram-seed0"
    assert list(read(model / "evaluation.json")["models"]) == ["GRAM", "popularity"]
    (ablation,) = read(model / "ablations.json")
    expected = read(reproduced[0] / "results" / "without-similar-items-seed0.json")["metrics"]
    assert ablation == {"name": "without similar items", "metrics": expected}
    card = (model / "README.md").read_text()
    assert "## Ablations" in card
    assert f"| without similar items | {expected['all_items']['recall@5']['mean']:.4f}" in card.replace("**", "")


@pytest.mark.parametrize("name", ["gram-seed1", "popularity-seed0"])
def test_a_row_made_again_is_the_same_bit_for_bit(reproduced, tmp_path, name, capsys):
    source = reproduced[0] / "results" / f"{name}.json"
    assert main(["reproduce", "--from", str(source), "--output-dir", str(tmp_path / "again")]) == 0
    assert f"the same as {source}, bit for bit" in capsys.readouterr().out
    again, result = read(tmp_path / "again" / "results" / f"{name}.json"), read(source)
    assert (again["hashes"], again["metrics"]) == (result["hashes"], result["metrics"])


def test_fusions_take_the_trained_model_and_search_once(reproduced, recipe, data_folder, tmp_path, capsys):
    folder = shutil.copytree(reproduced[0], tmp_path / "copied")
    weights = folder / "runs" / "gram-seed0" / "model.safetensors"
    trained = weights.stat().st_mtime_ns
    rows = ("reranked", "sasrec-and-knn", "with-all")
    reproduce(Plan(str(recipe), data_folder, folder, rows=rows, size="recipe"), progress=False)
    assert weights.stat().st_mtime_ns == trained
    assert capsys.readouterr().out.count("choosing") == 3
    gram, reranked, without_gram, with_all = (read(folder / f"results/{name}-seed0.json") for name in ("gram", *rows))
    for protocol in PROTOCOLS:
        assert reranked["metrics"][protocol]["recall@50"] == gram["metrics"][protocol]["recall@50"]
        assert set(reranked["settings"]["weights"][protocol]) == {"SASRec", "item-kNN", "popularity"}
        assert without_gram["settings"]["weights"][protocol]["SASRec"] == 1
        assert list(with_all["settings"]["weights"][protocol]) == ["SASRec", "item-kNN", "transition-graph"]
        assert sum(of["users"] for of in with_all["metrics"][protocol]["by_times_seen"].values()) == with_all["users"]
        assert set(reranked["fusion"][protocol]["validation"]) == {"GRAM", "GRAM, re-ranked"}
    assert {"sasrec", "item_knn", "transition_graph"} <= with_all["settings"].keys()
    assert reranked["hashes"]["model"] == gram["hashes"]["model"]
    assert reranked["seconds"] == without_gram["seconds"]
    assert sorted(path.name for path in (folder / "runs" / "fusion-of-gram-seed0").iterdir()) == [
        "ranks.json",
        "weights.json",
    ]
    source = folder / "results" / "reranked-seed0.json"
    assert main(["reproduce", "--from", str(source), "--output-dir", str(tmp_path / "again")]) == 0
    assert "bit for bit" in capsys.readouterr().out


def test_a_row_that_comes_out_otherwise_is_told(copied, tmp_path, capsys):
    source = copied / "results" / "popularity-seed0.json"
    result = read(source)
    result["metrics"]["all_items"]["recall@5"]["mean"] += 1e-9
    source.write_text(json.dumps(result))
    assert rerun(source, tmp_path / "again", say=lambda line: None) == ["metrics.all_items.recall@5.mean"]
    assert main(["reproduce", "--from", str(source), "--output-dir", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.endswith(": this time other metrics.all_items.recall@5.mean\n")


def test_a_row_made_again_needs_its_own_data_and_a_folder_of_its_own(reproduced, data_folder, tmp_path):
    source = reproduced[0] / "results" / "popularity-seed0.json"
    with pytest.raises(ValueError, match="is a reproduction's folder; give another --output-dir"):
        rerun(source, reproduced[0])
    other = shutil.copytree(data_folder, tmp_path / "data")
    lines = (other / "user_sequence.txt").read_text().splitlines()
    (other / "user_sequence.txt").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(ValueError, match=r"not the data that popularity-seed0\.json was made from; give --data"):
        rerun(source, tmp_path / "again", data=other)
    with pytest.raises(ValueError, match=r"results\.json: not a result"):
        rerun(reproduced[0] / "results.json", tmp_path / "again")
    older = tmp_path / "older.json"
    older.write_text(json.dumps({**read(source), "settings": {"training": {"epochs": 1, "momentum": 0.9}}}))
    with pytest.raises(ValueError, match="has the training setting momentum, which this version does not have"):
        rerun(older, tmp_path / "again")
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        rerun(tmp_path / "none.json", tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": {"epochs": 2}}, "holds a reproduction with epochs=1, now 2; take the same settings to go on"),
        ({"settings": {"num_clusters": 5}}, r"translation\.num_clusters=4, now 5"),
        ({"fraction": 0.5}, "fraction=1.0, now 0.5"),
    ],
)
def test_another_setting_is_noticed(reproduced, recipe, data_folder, change, says):
    options = {"rows": CHOSEN, "size": "recipe", **change}
    with pytest.raises(ValueError, match=says):
        reproduce(Plan(str(recipe), data_folder, reproduced[0], **options), progress=False)


def test_a_setting_that_is_newer_than_a_result_is_noticed_where_it_is_used(copied, recipe, data_folder):
    def reproduce_with(**settings):
        plan = Plan(str(recipe), data_folder, copied, rows=CHOSEN, size="recipe", settings=settings)
        reproduce(plan, lambda line: None, progress=False)

    paths = copied / "reproduction.json", copied / "results" / "gram-seed0.json"
    identity, result = map(read, paths)
    del identity["interaction_dropout"], result["settings"]["training"]["interaction_dropout"]
    for path, content in zip(paths, (identity, result), strict=True):
        path.write_text(json.dumps(content))
    reproduce_with()
    with pytest.raises(ValueError, match=r"reproduction with interaction_dropout=0\.0, now 0\.2"):
        reproduce_with(interaction_dropout=0.2)
    paths[0].write_text(json.dumps({**identity, "interaction_dropout": 0.2}))
    with pytest.raises(ValueError, match=r"made with settings\.training\.interaction_dropout=0\.0, now 0\.2"):
        reproduce_with(interaction_dropout=0.2)


def test_a_result_of_other_settings_is_noticed(copied, recipe, data_folder):
    path = copied / "results" / "gram-seed0.json"
    result = read(path)
    result["settings"]["training"]["learning_rate"] = 0.5
    path.write_text(json.dumps(result))
    plan = Plan(str(recipe), data_folder, copied, rows=CHOSEN, size="recipe")
    with pytest.raises(
        ValueError, match=r"gram-seed0\.json: made with settings\.training\.learning_rate=0\.5, now 0\.001"
    ):
        reproduce(plan, lambda line: None, progress=False)


def test_results_of_other_data_are_not_joined(copied):
    path = copied / "results" / "popularity-seed0.json"
    result = read(path)
    result["hashes"]["data"] = "0"
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"popularity-seed0\.json: has other data than gram-seed0\.json"):
        join_results(copied)


def test_a_fraction_of_the_users_is_the_same_every_time(data):
    some, same, others = sample_users(data, 0.3, 1), sample_users(data, 0.3, 1), sample_users(data, 0.3, 2)
    users = some.interactions.user_ids
    assert users == same.interactions.user_ids != others.interactions.user_ids
    assert (len(users), users) == (12, sorted(users))
    assert some.is_leave_one_out and some.items is data.items
    for row, user in enumerate(users):
        whole = data.interactions[data.interactions.user_ids.index(user)]
        assert np.array_equal(some.interactions[row], whole)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rows", "gramm"], "rows: there is no row 'gramm'; the rows are gram, without-hierarchy"),
        (["--fraction", "0"], "fraction is 0.0; it must be above 0 and at most 1"),
        (["--translation", "x"], "translation cannot be given: every row is translated and trained"),
        (["--epochs", "0"], "epochs is 0; it must be a whole number, at least 1"),
    ],
)
def test_bad_settings_are_one_line(recipe, data_folder, tmp_path, capsys, arguments, says):
    command = ["reproduce", str(recipe), "--data", str(data_folder), "--output-dir", str(tmp_path / "out")]
    assert main([*command, "--rows", "gram", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gram: error: {says}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_bad_places_are_one_line(recipe, data_folder, tmp_path, capsys):
    def error(*arguments):
        assert main(["reproduce", *map(str, arguments), "--rows", "popularity"]) == 2
        return capsys.readouterr().err

    new = ("--output-dir", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    sizes = "40 users, 30 items"
    assert sizes in error("beauty", "--data", data_folder, *new)
    assert "beauty has 22,363 users, 12,101 items, 198,502 interactions" in error("beauty", "--data", data_folder, *new)
    assert "no such file, and no recipe of this name" in error("beaty", "--data", data_folder, *new)
    assert "no such folder" in error(recipe, "--data", tmp_path / "none", *new)
    assert "--data is required" in error(recipe, *new)
    assert "NAME, such as beauty, is required" in error("--data", data_folder, *new)
    full = error(recipe, "--data", data_folder, "--output-dir", tmp_path / "full")
    assert "full: exists already and holds no reproduction; give another --output-dir" in full
    assert not (tmp_path / "out").exists()


def made_up(folder, data):
    """Results of made-up ranks: GRAM with two seeds, and popularity."""
    work = Workspace(data, folder, Accelerator(cpu=True))
    facts = {"dataset": "shop", "fraction": 0.1, "seed": 0, "size": "tiny", "epochs": 2, "batch_size": 128}
    facts |= {"num_layers": 4, "num_decoder_layers": 4, "d_model": 256}
    common = {
        "reproduction": facts,
        "data": {"folder": "data/goods", "items": 30},
        "environment": {"device": "a CPU, 2 cores", "threads": 1},
        "hashes": {"data": "0"},
    }
    users = len(data.interactions)
    first, tenth, never = np.full(users, 1), np.full(users, 10), np.zeros(users, dtype=np.int64)
    half, twice = np.where(np.arange(users) % 2, 1, 0), np.repeat([0, 2], 15)  # as often is the second half shown
    known = {"settings": {"training": {"backbone": None}}, "hashes": {}, "validation": {"ndcg@10": 0.5}}
    known |= {"parameters": 12_345_678, "seconds": {"translation": 3.0, "training": 60.0, "evaluation": 1.0}}
    for seed, ranks in ((0, first), (1, half)):
        found = {"all_items": Ranking(ranks, twice), "unseen_items": Ranking(tenth, twice * seed)}
        save_result(Run(ROWS["gram"], seed), found, known, common, work)
    known = {"settings": {}, "hashes": {}, "seconds": {"training": 1.0}}
    found = {"all_items": Ranking(half, twice), "unseen_items": Ranking(never, twice * 0)}
    save_result(Run(ROWS["popularity"], 0), found, known, common, work)


TABLE = """\
`shop` on `goods`, **a rehearsal on 0.1 of the users** (40 test users), full ranking of 30 items, means with their \
95 % intervals over users in brackets; R is recall, N is NDCG. Every generative row: size tiny, 4 + 4 layers of width \
256, 12.3 million parameters, 2 epochs of batches of 128, 60.0 seconds on 1 thread of a CPU, 2 cores. ± is the \
standard deviation over seeds.

All items may be recommended:

|  | seeds | R@5 | N@5 | R@10 | N@10 | N@10 less that of GRAM |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| GRAM | 2 | **0.7500** ± 0.3536 (0.6715-0.8285) | **0.7500** ± 0.3536 (0.6715-0.8285) | \
**0.7500** ± 0.3536 (0.6715-0.8285) | **0.7500** ± 0.3536 (0.6715-0.8285) |  |
| popularity | 1 | 0.5000 (0.3431-0.6569) | 0.5000 (0.3431-0.6569) | 0.5000 (0.3431-0.6569) | 0.5000 (0.3431-0.6569) | \
-0.2500 (-0.3285 to -0.1715) |

By how often the target was seen in training; coverage is the share of the items in anybody's first ten, popularity \
how often these were seen:

| N@10, seen | 0 | 1-4 | 5-19 | 20+ | coverage | popularity |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| users | 0 | 0 | 40 | 0 |  |  |
| GRAM |  |  | 0.7500 (0.6715-0.8285) |  | 0.500 | 8.2 |
| popularity |  |  | 0.5000 (0.3431-0.6569) |  | 0.500 | 8.2 |

Items of the history are masked:

|  | seeds | R@5 | N@5 | R@10 | N@10 | N@10 less that of GRAM |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| GRAM | 2 | **0.0000** ± 0.0000 (0.0000-0.0000) | **0.0000** ± 0.0000 (0.0000-0.0000) | \
**1.0000** ± 0.0000 (1.0000-1.0000) | **0.2891** ± 0.0000 (0.2891-0.2891) |  |
| popularity | 1 | **0.0000** (0.0000-0.0000) | **0.0000** (0.0000-0.0000) | 0.0000 (0.0000-0.0000) | \
0.0000 (0.0000-0.0000) | -0.2891 (-0.2891 to -0.2891) |

By how often the target was seen in training; coverage is the share of the items in anybody's first ten, popularity \
how often these were seen:

| N@10, seen | 0 | 1-4 | 5-19 | 20+ | coverage | popularity |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| users | 0 | 0 | 40 | 0 |  |  |
| GRAM |  |  | 0.2891 (0.2891-0.2891) |  | 0.250 | 4.1 |
| popularity |  |  | 0.0000 (0.0000-0.0000) |  | 0.000 | 0.0 |"""


def test_the_whole_table(data, tmp_path):
    made_up(tmp_path, data)
    assert results_table(join_results(tmp_path)) == TABLE


def test_protocols_that_are_one_share_a_table(data, tmp_path):
    made_up(tmp_path, data)
    results = join_results(tmp_path)
    for row in results["rows"].values():
        row["metrics"]["unseen_items"] = row["metrics"]["all_items"]
    apart = [of for of in results["differences"] if of["protocol"] == "all_items"]
    results["differences"] = [{**of, "protocol": protocol} for of in apart for protocol in PROTOCOLS]
    found, head = results_table(results), "All items may be recommended"
    assert found.splitlines()[2] == f"{head}, or items of the history are masked, which is the same here:"
    of_one = TABLE[: TABLE.index("\n\nItems of the history are masked:")]
    assert found == of_one.replace(f"{head}:", found.splitlines()[2])


def test_a_table_goes_between_its_marks(data, tmp_path, capsys):
    folder = tmp_path / "goods-cpu"
    made_up(folder, data)
    join_results(folder)
    page, block = tmp_path / "page.md", f"<!-- gram table goods-cpu -->\n\n{TABLE}\n\n<!-- end of gram table -->"
    page.write_text("# Before\n\n<!-- gram table goods-cpu -->\nold\n<!-- end of gram table -->\n\nAfter.\n")
    assert main(["table", str(folder), "--output", str(page)]) == 0
    assert page.read_text() == f"# Before\n\n{block}\n\nAfter.\n"
    write_table(folder, page)
    assert page.read_text() == f"# Before\n\n{block}\n\nAfter.\n"
    write_table(folder, tmp_path / "new.md")
    assert (tmp_path / "new.md").read_text() == f"{block}\n"
    page.write_text("# Nothing to write between\n")
    capsys.readouterr()
    assert main(["table", str(folder), "--output", str(page)]) == 2
    assert (
        "page.md: needs one pair of lines to write between, `<!-- gram table goods-cpu -->`" in capsys.readouterr().err
    )
    assert main(["table", str(tmp_path / "none")]) == 2
    assert "results.json: no such file; give a folder that `gram reproduce` wrote" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["beauty-cpu", "scientific-cpu", "scientific-ablations", "scientific-undistilled"])
def test_the_tables_of_the_docs_are_of_the_results_beside_them(name, tmp_path):
    folder, page = DOCS / "results" / name, tmp_path / "page.md"
    joined = read(folder / "results.json")
    paths = sorted(folder.glob("results/*.json"))
    assert {path.name: hash_of_file(path) for path in paths} == joined["files"]
    assert set(joined["rows"]) == {path.name.rpartition("-seed")[0] for path in paths}
    page.write_text((DOCS / "benchmarks.md").read_text(encoding="utf-8"), encoding="utf-8")
    write_table(folder, page)
    assert page.read_text(encoding="utf-8") == (DOCS / "benchmarks.md").read_text(encoding="utf-8")
