"""The command line: what it prints, and bad input as one line that names the place and the remedy."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gram import GramTokenizer, cli
from gram.data import read_folder
from gram.serving.recommendation import Recommender
from gram.training.settings import TrainingSettings
from gram.training.start import tokenizer_of
from gram.translation import TranslationSettings

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def gram(capsys):
    """Runs a command; returns its exit code, its lines, and its lines of errors, progress bars left out."""

    def run(*argv):
        code = cli.main([str(word) for word in argv])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("gram: ") or "Traceback" in line]
        return code, captured.out.splitlines(), errors

    return run


@pytest.fixture
def folder(data_folder, tmp_path):
    """A copy of the data folder, to spoil."""
    return shutil.copytree(data_folder, tmp_path / "data")


def replace_line(path, number, line: bytes):
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines))


def test_help_is_instant():
    code = "import sys, gram.cli\ntry: gram.cli.main(['--help'])\nfinally: print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    for name in cli.COMMANDS:
        assert f"    {name}" in done.stdout


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("prepare", "--skip-bad-lines"),
        ("translate", "--num-clusters"),
        ("encode", "--overwrite"),
        ("evaluate", "--max-users"),
        ("recommend", "--top-k"),
        ("card", "--licence"),
        ("push", "--dry-run"),
        ("quickstart", "--output-dir"),
    ],
)
def test_help_of_a_command_explains_flags_and_shows_an_example(gram, capsys, name, flag):
    with pytest.raises(SystemExit) as done:
        gram(name, "--help")
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert flag in text
    assert f"examples:\n  gram {name} " in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND; see `gram --help`"),
        (["recomend"], "invalid choice: 'recomend'"),
        (["recommend", "MODEL"], "give the items of a history (--history), or a file of users (--users)"),
        (["recommend", "MODEL", "--history", "a", "--top-k", "0"], "--top-k: '0' is no whole number from 1 to"),
        (["recommend", "MODEL", "--history", "--1Ua"], "(one that begins with two dashes is written --history=--...)"),
        (["recommend", "MODEL", "--history", "a", "--num-beams", "9" * 5000], "is no whole number from 1 to 999999999"),
        (["recommend", "MODEL", "--history", "a", "--cold-share", "7%"], "--cold-share: '7%' is no number from 0 to 1"),
        (["space", "a/b", "--run", "--port", "99999"], "--port: '99999' is no whole number from 0 to 65535"),
        (["tune", "--data", "DIR", "--output", "x", "--seed", "9" * 30], "is no whole number from 0 to 999999999"),
        (["prepare", "--output", "x", "--config", "."], ".: is a folder; give a YAML file of settings"),
        (["recommend", "MODEL", "--users", "users.txt"], "--users and --output belong together"),
        (["recommend", "MODEL", "--history", "a", "--output", "x"], "--users and --output belong together"),
        (["evaluate", "MODEL", "--data", "DIR"], "required: --output; see `gram evaluate --help`"),
        (["evaluate", "MODEL", "--data", "DIR", "--output", "results.csv"], "ends in .json"),
        (
            ["prepare", "--output", "x", "--config", "beuty"],
            "beuty: no such file, and no recipe of this name; the recipes",
        ),
        (["translate", "--data", "DIR", "--output", "x", "--depth", "many"], "--depth: invalid int value: 'many'"),
        (["translate", "--data", "DIR", "--output", "x", "--num-clusters", "1"], "num_clusters is 1; it must be"),
    ],
)
def test_wrong_flags(gram, argv, message):
    code, lines, errors = gram(*argv)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert errors[0].startswith("gram: error: ")
    assert message in errors[0]


@pytest.mark.parametrize(
    ("file", "number", "line", "message"),
    [
        ("item_text.tsv", None, None, "item_text.tsv: no such file"),
        ("user_sequence.txt", None, None, "user_sequence.txt: no such file"),
        ("item_text.tsv", 3, b"B0001\ttwo columns", "item_text.tsv:3: 2 columns, the header has 4; correct"),
        ("user_sequence.txt", 2, b"U001", "user_sequence.txt:2: user U001 has no items"),
        ("user_sequence.txt", 2, b"U001 B0001 B0002 NEW", "user_sequence.txt:2: item NEW has no text"),
        (
            "user_sequence.txt",
            2,
            b"U001 B0001 B0002",
            "user_sequence.txt:2: user U001 has 2 items, leave",
        ),
        ("item_text.tsv", 4, b"B0001\tTitle\tBrand\tHair", "item_text.tsv:4: item B0001 stands on line 3 already"),
        ("item_text.tsv", 3, b"B0001\t\t\t", "item_text.tsv:3: item B0001 has an empty text; fill a field or drop"),
        ("item_text.tsv", 3, b"B0001\t\xff\t\t", "item_text.tsv:3: not UTF-8"),
        ("user_sequence.txt", 2, b"U001 B0001 B0002 B\xff", "user_sequence.txt:2: not UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["translate", "evaluate"])
def test_wrong_data(gram, folder, model_folder, tmp_path, command, file, number, line, message):
    if line is None:
        (folder / file).unlink()
    else:
        replace_line(folder / file, number, line)
    before = sorted(tmp_path.rglob("*"))
    start = ["translate"] if command == "translate" else ["evaluate", model_folder]
    code, lines, errors = gram(*start, "--data", folder, "--output", tmp_path / "new" / "results.json")
    assert (code, lines, len(errors)) == (2, [], 1)
    assert message in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_data_folder(gram, tmp_path):
    code, _, errors = gram("translate", "--data", tmp_path / "nowhere", "--output", tmp_path / "new")
    assert code == 2
    assert "nowhere: no such folder; give one that `gram prepare` made" in errors[0]
    assert not list(tmp_path.iterdir())


def test_translate_prints_statistics_and_saves_a_tokenizer(gram, data_folder, tmp_path):
    output = tmp_path / "tokenizers" / "tiny"
    limits = ["--num-clusters", 4, "--depth", 3, "--vocab-size", 400, "--num-similar", 2, "--max-history", 5]
    code, lines, errors = gram("translate", "--data", data_folder, "--output", output, *limits)
    assert (code, errors) == (0, [])
    assert [line.split()[0] for line in lines[:4]] == ["level", "1", "2", "3"]
    assert any("30 items, 0 duplicate IDs" in line for line in lines)
    assert lines[-1] == f"saved to {output}"
    tokenizer = GramTokenizer.from_pretrained(output)
    assert (len(tokenizer.item_ids), tokenizer.max_history) == (30, 5)
    assert (output / "sasrec.safetensors").is_file()
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]

    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert gram("translate", "--data", data_folder, "--output", output, *limits)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before

    (output.parent / "other").mkdir()
    (output.parent / "other" / "letter.txt").write_text("mine", "utf-8")
    code, _, errors = gram("translate", "--data", data_folder, "--output", output.parent / "other")
    assert code == 2
    assert "other: exists already, and holds nothing that this command wrote" in errors[0]


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left", "x.bin"), 2)])
def test_an_interrupted_translation_goes_on(gram, data_folder, tmp_path, monkeypatch, error, code):
    def interrupted(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(GramTokenizer, "save_pretrained", interrupted)
    output = tmp_path / "tokenizer"
    found, _, errors = gram("translate", "--data", data_folder, "--output", output, "--num-similar", 0)
    assert (found, len(errors)) == (code, 1)
    assert errors[0].startswith("gram: error: " + ("interrupted" if code == 130 else "x.bin: No space left"))
    made = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert sorted(path.name for path in made) == [
        "lexical_ids.parquet",
        "tree.safetensors",
        "vectors.safetensors",
        "vocabulary.parquet",
    ]
    monkeypatch.undo()
    assert gram("translate", "--data", data_folder, "--output", output, "--num-similar", 0)[0] == 0
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())


def test_a_recipe_names_an_encoder(gram, data_folder, tmp_path):
    (tmp_path / "recipe.yaml").write_text((RECIPES / "encoder-nv-embed-v2.yaml").read_text() + "depht: 3\n", "utf-8")
    choices = ["--config", tmp_path / "recipe.yaml", "--data", data_folder, "--output", tmp_path / "x"]
    code, _, errors = gram("translate", *choices)
    assert (code, len(errors)) == (2, 1)
    assert "recipe.yaml: unknown key 'depht'" in errors[0]
    code, _, errors = gram("translate", *choices[2:], "--config", RECIPES / "encoder-nv-embed-v2.yaml")
    assert (code, len(errors)) == (2, 1)
    assert "encoder 'nvidia/NV-Embed-v2' cannot be loaded" in errors[0]


def test_a_recipe_of_training_translates_as_its_training_does(gram, data_folder, tmp_path):
    said = "num_clusters: 4\ndepth: 2\nnum_similar: 0\nmax_history: 6\nmax_passage_length: 40\nbatch_size: 8\n"
    (tmp_path / "recipe.yaml").write_text(said)
    choices = ["translate", "--data", data_folder, "--config", tmp_path / "recipe.yaml", "--output"]
    assert gram(*choices, tmp_path / "words")[0] == 0
    settings = TrainingSettings(str(data_folder), str(tmp_path / "model"), max_history=6, max_passage_length=40)
    own = tokenizer_of(settings, TranslationSettings(num_clusters=4, depth=2, num_similar=0), read_folder(data_folder))
    assert GramTokenizer.from_pretrained(tmp_path / "words").sequences == own.sequences
    given = GramTokenizer.from_pretrained(tmp_path / "words")
    assert (given.max_history, given.max_passage_length) == (6, 40)
    assert gram(*choices, tmp_path / "longer", "--max-history", 7, "--max-passage-length", 50)[0] == 0
    longer = GramTokenizer.from_pretrained(tmp_path / "longer")
    assert (longer.max_history, longer.max_passage_length) == (7, 50)
    (tmp_path / "recipe.yaml").write_text(said + f"backbone: {tmp_path}/nowhere\n")
    code, _, errors = gram(*choices, tmp_path / "other")
    assert code == 2
    assert f"{tmp_path}/nowhere" in errors[0]


@pytest.mark.parametrize("recipe", ["beauty", "cpu", "quickstart"])
def test_recipes_of_training_are_read_by_translate(gram, tmp_path, recipe):
    code, _, errors = gram("translate", "--config", recipe, "--data", tmp_path / "nowhere", "--output", tmp_path / "x")
    assert code == 2
    assert "nowhere: no such folder" in errors[0]


def test_text_tokenizer_that_is_not_there(gram, data_folder, tmp_path):
    nowhere = tmp_path / "nowhere"
    code, _, errors = gram("translate", "--data", data_folder, "--output", tmp_path / "x", "--tokenizer", nowhere)
    assert (code, len(errors)) == (2, 1)
    assert str(nowhere) in errors[0]
    assert not list(tmp_path.iterdir())


def test_evaluate_prints_a_table_and_saves_results(gram, model_folder, data_folder, tmp_path):
    output = tmp_path / "results.json"
    code, lines, errors = gram(
        "evaluate",
        model_folder,
        "--data",
        data_folder,
        "--split",
        "validation",
        "--output",
        output,
        "--max-users",
        7,
        "--num-beams",
        999_999_999,
    )
    assert (code, errors) == (0, [])
    assert lines[0].startswith("7 validation users")
    assert lines[-1] == f"saved to {output}"
    results = json.loads(output.read_text())
    assert (results["split"], results["users"], results["num_beams"]) == ("validation", 7, 30)
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 7 * 5 * 2
    names = {"results.json", "results.parquet", "results.sasrec.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_recommend_prints_a_table(gram, model_folder, tokenizer):
    code, lines, errors = gram("recommend", model_folder, "--history", "B0001", "--history", "B0002", "--top-k", 4)
    assert (code, errors) == (0, [])
    assert lines[0].split() == ["rank", "score", "item", "title"]
    rows = [line.split(maxsplit=3) for line in lines[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[3] for row in rows] == [tokenizer.titles[tokenizer.item_rows[row[2]]] for row in rows]
    assert not {"B0001", "B0002"} & {row[2] for row in rows}


def test_recommend_among_some_items(gram, model_folder, tmp_path):
    (tmp_path / "shelf.txt").write_text("B0004\nB0005\n\nB0006\n")
    only = ["--only", f"@{tmp_path / 'shelf.txt'}", "--only", "B0007"]
    code, lines, errors = gram("recommend", model_folder, "--history", "B0001", *only, "--exclude", "B0005")
    assert (code, errors) == (0, [])
    assert {line.split()[2] for line in lines[1:]} == {"B0004", "B0006", "B0007"}
    code, lines, errors = gram("recommend", model_folder, "--history", "B0001", "--only=B0002", "--exclude=B0002")
    assert (code, lines, errors) == (0, ["there is no item that may be recommended"], [])
    code, _, errors = gram("recommend", model_folder, "--history", "B0001", "--where", "colour=red")
    assert (code, len(errors)) == (2, 1)
    assert "'colour=red': there is no field 'colour'; there are item_id, title, text" in errors[0]
    code, _, errors = gram("recommend", model_folder, "--history", "B0001", "--only", f"@{tmp_path / 'none.txt'}")
    assert (code, len(errors)) == (2, 1)
    assert "none.txt: no such file" in errors[0]


def test_recommend_to_a_file_of_users(gram, model_folder, tmp_path):
    (tmp_path / "users.txt").write_text("u1 B0001 B0002\nu2 B0003\n")
    output = tmp_path / "recs.parquet"
    many = ["--users", tmp_path / "users.txt", "--output", output]
    code, lines, _ = gram("recommend", model_folder, *many, "--top-k", 2, "--exclude", "B0004")
    assert (code, lines) == (0, [f"recommendations to 2 users saved to {output}"])
    assert pq.read_table(output)["user_id"].to_pylist() == ["u1", "u2"]
    assert [len(set(items) - {"B0004"}) for items in pq.read_table(output)["items"].to_pylist()] == [2, 2]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["B0001", "XXX"], "item 'XXX' is not in the catalogue of 30 items"),
        ([""], "item '' is not in the catalogue"),
        (["-0iUa4sNDFiZFrAdIWhZoQ"], "item '-0iUa4sNDFiZFrAdIWhZoQ' is not in the catalogue"),  # an id of Yelp
        (["\x1b[2J"], r"item '\x1b[2J' is not in"),
        (["half \ud83d"], "item 'half \\ud83d' is not in the catalogue"),
    ],
)
def test_wrong_history(gram, model_folder, history, message):
    code, lines, errors = gram("recommend", model_folder, *(word for item in history for word in ("--history", item)))
    assert (code, lines, len(errors)) == (2, [], 1)
    assert message in errors[0]


def test_recommend_to_a_stranger(gram, model_folder):
    code, lines, errors = gram("recommend", model_folder, "--history", "gone", "--top-k", 2, "--skip-unknown")
    assert (code, len(lines), errors) == (0, 5, [])
    assert lines[0] == "skipped, as the catalogue does not have them: gone"
    assert lines[1] == "nothing of the history is known: these are the most popular items"


def test_places_for_cold_items(gram, model_folder):
    cold = ["--cold-share", 0.5, "--cold-below", 12]
    code, lines, errors = gram("recommend", model_folder, "--history", "B0001", "--top-k", 6, *cold)
    search = {"top_k": 6, "cold_share": 0.5, "cold_below": 12}
    (found,) = Recommender.from_pretrained(model_folder).recommend([["B0001"]], **search)
    assert (code, errors) == (0, [])
    assert [line.split()[2] for line in lines[1:]] == [item.item_id for item in found]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "catalogue.parquet"])
def test_model_folder_with_a_file_missing(gram, model_folder, tmp_path, name):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    (folder / name).unlink()
    code, lines, errors = gram("recommend", folder, "--history", "B0001")
    assert (code, lines, len(errors)) == (2, [], 1)
    assert f"{folder / name}: no such file; a model folder needs it: save the model again" in errors[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "nowhere: no such model folder; give one, or a name on the Hub"),
        ("some/nowhere", "some/nowhere: no such folder, and no such model from the Hub"),
    ],
)
def test_model_that_is_nowhere(gram, name, message):
    code, lines, errors = gram("recommend", name, "--history", "B0001")
    assert (code, lines, len(errors)) == (2, [], 1)
    assert message in errors[0]


def test_model_folder_with_an_impossible_config(gram, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_history": "many"}))
    code, _, errors = gram("recommend", folder, "--history", "B0001")
    assert (code, len(errors)) == (2, 1)
    assert "max_history" in errors[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: " + b"[" * 5000 + b"]" * 5000, "not a YAML file (maximum recursion depth exceeded"),
        (b"a: &a {b: c}\nd: {<<: [*a, *a]}", "must not use the anchors of YAML; write the values out"),
        (b"\x80\x00\xff", "not a YAML file"),
        (b"PAR1\x00\x00", "not a YAML file"),
        (b"- a", "must hold `name: value` lines"),
        (b"format: !!set {a, b}", "format must be a single value"),
        (b"format:", "format has no value; give one, or leave the line out"),
        (b"", "--format is required"),
    ],
)
def test_a_settings_file_of_another_kind(gram, tmp_path, content, message):
    (tmp_path / "settings.yaml").write_bytes(content)
    code, _, errors = gram("prepare", "--output", tmp_path / "x", "--config", tmp_path / "settings.yaml")
    assert (code, len(errors)) == (2, 1)
    assert message in errors[0]


def test_titles_that_the_terminal_cannot_show(model_folder, tmp_path):
    """Under an encoding that has few letters."""
    from gram import GramForConditionalGeneration

    tokenizer = GramTokenizer.from_pretrained(model_folder)
    place, titles = tokenizer.catalogue.column_names.index("title"), ["Мельница 🎬"] * len(tokenizer.item_ids)
    tokenizer.catalogue = tokenizer.catalogue.set_column(place, tokenizer.catalogue.schema.field("title"), [titles])
    tokenizer.save_pretrained(tmp_path / "model")
    GramForConditionalGeneration.from_pretrained(model_folder).save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "gram.cli", "recommend", str(tmp_path / "model"), "--history", "B0001"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert r"\u041c\u0435\u043b\u044c\u043d\u0438\u0446\u0430 \U0001f3ac" in done.stdout


def test_own_mistakes_are_not_hidden(gram, monkeypatch):
    def broken(arguments):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(cli.COMMANDS["quickstart"], "run", broken)
    with pytest.raises(TypeError):
        gram("quickstart")
