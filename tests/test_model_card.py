"""The model card: its whole text, its figures, its metadata, its snippets, and what it does with a user's own words."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard, metadata_load
from transformers import T5Tokenizer

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie, cli
from gram.common.text import plain
from gram.hub.card_settings import CardSettings
from gram.hub.model_card import code, is_handmade, refresh_model_card, write_model_card
from gram.tokenization_gram import CATALOGUE_SCHEMA
from gram.training.facts import run_facts

from .hub_endpoints import LICENSES

REFERENCE = Path(__file__).parent / "references" / "model_card.md"
TITLES = ("Salt Mill", "Pepper | *Mill*", "Oak Board", "Bread Knife", "Tea <Pot>", "Egg Timer", "Sugar Tin", "Apron")
WORDS = ("▁salt", "▁pepper", "▁mill", "▁board", "▁oak", "▁knife", "▁tea", "▁sugar", "▁kitchen", "▁apron")
IDS = (
    ("▁kitchen", "▁mill", "0"),
    ("▁kitchen", "▁mill", "1"),
    ("▁kitchen", "▁board"),
    ("▁kitchen", "▁knife"),
    ("▁tea", "▁board"),
    ("▁tea", "▁knife"),
    ("▁sugar", "▁tea"),
    ("▁apron", "▁oak"),
)
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
TRAINING = {
    "settings": {
        "data": "/home/somebody/data/kitchen",
        "output_dir": "/home/somebody/runs/kitchen",
        "translation": None,
        "tokenizer": "/home/somebody/tokenizers/t5",
        "backbone": "google-t5/t5-small",
        "d_model": 512,
        "max_history": 4,
        "max_passage_length": 32,
        "epochs": 30,
        "batch_size": 128,
        "micro_batch_size": 64,
        "learning_rate": 0.001,
        "mixed_precision": "auto",
        "validate_every": 1,
        "validation_users": 0,
        "validation_beams": 50,
        "patience": 1,
        "report_to": "tensorboard",
        "added_later": 7,
        "seed": 0,
    },
    "progress": {
        "epoch": 2,
        "updates": 2468,
        "samples": 315904,
        "seconds": 5432.1,
        "stopped_early": True,
        "validations": [
            {"epoch": 1, "updates": 1234, "ndcg@10": 0.04321},
            {"epoch": 2, "updates": 2468, "ndcg@10": 0.04123},
        ],
    },
    "environment": {
        "python": "3.12.1",
        "gram-recommender": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "accelerate": "1.15.0",
        "device": "NVIDIA H100 80GB HBM3",
        "processes": 2,
        "mixed_precision": "bf16",
    },
    "data": {
        "users": 1200,
        "items": 8,
        "interactions": 9876,
        "leave_one_out": True,
        "split": {"train": 7476, "validation": 1200, "test": 1200},
        "prepared": {
            "settings": {"format": "hub"},
            "inputs": [{"file": "goods.parquet", "sha256": "ab" * 32}],
            "origin": {
                "interactions": {"path": "shop/kitchen", "name": "log", "split": "train", "revision": "c0ffee"},
                "items": {"path": "goods", "name": None, "split": "train", "revision": None},
            },
            "stages": [
                {"name": "read", "users": 1500, "items": 9, "interactions": 10000, "dropped": 0},
                {"name": "5 or more per user", "users": 1200, "items": 8, "interactions": 9876, "dropped": 124},
            ],
        },
    },
    "base_model": "google-t5/t5-small",
}


def estimates(start: float) -> dict:
    """Metrics of both protocols, as evaluation.json holds them, every one another."""
    values = {}
    for place, protocol in enumerate(("all_items", "unseen_items")):
        means = [start + 0.1 * place + 0.01 * number for number in range(len(METRICS))]
        values[protocol] = {
            name: {"mean": mean, "low": mean - 0.005, "high": mean + 0.005}
            for name, mean in zip(METRICS, means, strict=True)
        }
    return values


EVALUATION = {
    "model": "/home/somebody/runs/kitchen",
    "split": "test",
    "users": 1200,
    "num_beams": 50,
    "data": {"folder": "/home/somebody/data/kitchen", "users": 1200, "items": 8, "interactions": 9876},
    "models": {"GRAM": estimates(0.2), "SASRec": estimates(0.25), "popularity": estimates(0.01)},
}
for metrics in (of for by_protocol in EVALUATION["models"].values() for of in by_protocol.values()):
    groups = {"0": 0, "1-4": 0, "5-19": 1000, "20+": 200}
    of = {
        name: {"users": users, **({"ndcg@10": metrics["ndcg@10"]} if users else {})} for name, users in groups.items()
    }
    metrics |= {"by_times_seen": of, "coverage@10": 0.875, "popularity@10": 123.45}
ABLATIONS = [{"name": "without similar items", "metrics": estimates(0.15)}]
SETTINGS = CardSettings(repo_id="somebody/kitchen", licence="cc-by-4.0", language="en", notes="Trained for *tests*.")


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory) -> Path:
    """A model of random weights, and a catalogue and reports that are written here, so that the card is always one."""
    folder = tmp_path_factory.mktemp("cards") / "kitchen"
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = T5Tokenizer(vocab=pieces + [(piece, -3.0) for piece in (*letters, *WORDS)], extra_ids=0)
    rows = [
        {
            "item_id": f"K{row}",
            "title": title,
            "text": f"title: {title}",
            "lexical_id": list(lexical_id),
            "similar_items": [f"K{(row + 1) % 8}", f"K{(row + 2) % 8}"],
        }
        for row, (title, lexical_id) in enumerate(zip(TITLES, IDS, strict=True))
    ]
    catalogue = pa.Table.from_pylist(rows, schema=CATALOGUE_SCHEMA)
    tokenizer = GramTokenizer.from_catalogue(words, catalogue, max_history=4, max_passage_length=32)
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2}
    config = GramConfig(vocab_size=len(tokenizer), max_history=4, initializer_factor=2.0, **shape)
    model = GramForConditionalGeneration(config)
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "training.json", TRAINING)
    write_json(folder / "evaluation.json", EVALUATION)
    write_json(folder / "ablations.json", ABLATIONS)
    return folder


@pytest.fixture
def folder(kitchen, tmp_path) -> Path:
    return shutil.copytree(kitchen, tmp_path / "kitchen")


def test_whole_card(folder):
    """To renew the reference after a change that is meant: copy the card over it, and read the difference."""
    card = write_model_card(folder, SETTINGS)
    assert card == folder / "README.md"
    assert card.read_text(encoding="utf-8") == REFERENCE.read_text(encoding="utf-8")


def test_card_tells_nothing_of_the_machine(folder):
    text = write_model_card(folder, SETTINGS).read_text(encoding="utf-8")
    assert "somebody/kitchen" in text
    for place in ("/home", "tokenizers", "tensorboard", str(folder)):
        assert place not in text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("![x](sasrec.safetensors)", r"!\[x\](sasrec.safetensors)"),
        ('<img src="x.png">&lt;', r'\<img src="x.png"\>\&lt;'),
        ("1984. A novel", r"1984\. A novel"),
        ("---", r"\---"),
        ("- a\n# b", r"\- a \# b"),
        ("0.5-inch", "0.5-inch"),
        ("half \ud83d", "half ?"),
    ],
)
def test_a_title_is_no_markdown(text, written):
    assert plain(text) == written


@pytest.mark.parametrize(("text", "written"), [("▁a", "`▁a`"), ("a`b", "`` a`b ``"), ("``` \n", "```` ``` ````")])
def test_a_token_with_backticks_stays_code(text, written):
    assert code(text) == written


def test_without_evaluation_and_ablations_there_are_no_metrics(folder):
    (folder / "evaluation.json").unlink()
    (folder / "ablations.json").unlink()
    write_json(folder / "training.json", {**TRAINING, "data": {**TRAINING["data"], "leave_one_out": False}})
    path = write_model_card(folder)
    metadata, text = metadata_load(path), path.read_text(encoding="utf-8")
    assert not {"model-index", "metrics", "license"} & set(metadata)
    assert "has not been evaluated" in text
    assert "| GRAM |" not in text
    assert "## Ablations" not in text
    assert "No licence was given" in text
    assert "The training, validation and test parts follow each other in time" in text


def test_what_an_older_training_did_not_note_is_left_out(folder):
    noted = {name: TRAINING[name] for name in ("settings", "progress")}
    write_json(folder / "training.json", noted)
    (folder / "evaluation.json").unlink()
    path = write_model_card(folder)
    text = path.read_text(encoding="utf-8")
    assert "### Environment" not in text
    assert text.count("# GRAM on kitchen\n") == 1  # the data folder's name
    assert "base_model" not in metadata_load(path)


@pytest.mark.parametrize("name", ["training.json", "config.json", "catalogue.parquet", "model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}: no such file"):
        write_model_card(folder)
    assert not list(folder.glob("*README*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation.json", "{", r"evaluation\.json: not what `gram evaluate` wrote"),
        ("evaluation.json", '{"models": {}}', r"evaluation\.json: not what `gram evaluate` wrote"),
        ("evaluation.json", "[]", r"evaluation\.json: not what `gram evaluate` wrote"),
        ("training.json", "[]", r"training\.json: not what `train_accelerate\.py` wrote"),
        ("training.json", '{"settings": {}, "progress": {}}', r"training\.json: not what `train_accelerate\.py` wrote"),
        ("ablations.json", "{}", r"ablations\.json: is not of the form"),
        ("ablations.json", '[{"name": "a", "metrics": {}}]', r"ablations\.json: is not of the form"),
        ("card.yaml", "license: mit", r"card\.yaml: unknown key 'license'"),
        ("card.yaml", "repo_id: ../kitchen", r"Repo id must use alphanumeric chars"),
        ("card.yaml", "licence: other", r"--licence-name must say which"),
    ],
)
def test_bad_file_is_named_and_leaves_the_card_alone(folder, name, content, message):
    before = write_model_card(folder).read_bytes()
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        write_model_card(folder)
    assert (folder / "README.md").read_bytes() == before
    assert not list(folder.glob(".*.part"))


def test_figures_of_other_weights_are_refused(quickstart_run, tmp_path):
    folder = shutil.copytree(quickstart_run[0], tmp_path / "model")
    write_model_card(folder, overwrite=True)  # its own figures
    model = GramForConditionalGeneration.from_pretrained(folder)
    torch.nn.init.zeros_(model.encoder.final_layer_norm.weight)
    model.save_pretrained(folder)
    before = (folder / "README.md").read_bytes()
    with pytest.raises(ValueError, match=r"evaluation\.json: was measured with other weights .*gram evaluate"):
        write_model_card(folder, overwrite=True)
    assert (folder / "README.md").read_bytes() == before


def test_figures_of_a_real_run(quickstart_run):
    folder, _ = quickstart_run
    training, evaluation = (json.loads((folder / f"{name}.json").read_text()) for name in ("training", "evaluation"))
    card = ModelCard.load(folder / "README.md")
    assert len(card.data.eval_results) == 8
    for result in card.data.eval_results:
        measured = evaluation["models"]["GRAM"][result.metric_args["protocol"]][result.metric_type]
        assert result.metric_value == round(measured["mean"], 4)
        assert result.metric_args["interval_95"] == [round(measured[end], 4) for end in ("low", "high")]
    for model, by_protocol in evaluation["models"].items():
        for by_metric in by_protocol.values():
            cells = ["{mean:.4f} ({low:.4f}-{high:.4f})".format(**by_metric[metric]) for metric in METRICS]
            assert f"| {model} | {' | '.join(cells)} |" in card.text.replace("**", "")
    assert f"| device | {training['environment']['device']} |" in card.text
    assert training["environment"]["processes"] == 1
    prepared = json.loads((folder / "data" / "prepare.json").read_text())
    for part, count in prepared["split"]["interactions"].items():
        assert f"| {part} | {count} |" in card.text
    assert prepared["inputs"][0]["sha256"] in card.text
    assert str(folder) not in card.content


def test_snippets_run_without_the_package_and_give_what_the_card_shows(quickstart_run, run_elsewhere, tmp_path):
    folder = shutil.copytree(quickstart_run[0], tmp_path / "model")  # next to which the snippets are run
    text = (folder / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\d\. (The Long Film Number \d+)$", text, flags=re.MULTILINE)
    assert len(shown) == 5
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert snippets
    script = "import contextlib, io, json, sys\nprinted = io.StringIO()\n"
    script += "with contextlib.redirect_stdout(printed):\n    exec(json.load(sys.stdin), {})\n"
    script += "print(json.dumps(printed.getvalue().splitlines()))"
    for snippet in snippets:
        lines = run_elsewhere(script, snippet)
        assert len(lines) == 10
        for title, line in zip(shown, lines, strict=False):
            assert re.search(rf"{title}\b", line)


def test_command_keeps_what_was_said_for_the_next_card(folder, capsys):
    def said(*flags):
        assert cli.main(["card", str(folder), *flags]) == 0
        return metadata_load(folder / "README.md")

    assert said("--data-name", "Kitchen", "--licence", "mit", "--datasets", "a/b, c")["datasets"] == ["a/b", "c"]
    metadata = said("--licence", "apache-2.0", "--datasets", "none")
    assert metadata["license"] == "apache-2.0"
    assert metadata["datasets"] == ["shop/kitchen"]  # again what gram prepare has noted
    assert metadata["model-index"][0]["results"][0]["dataset"] == {
        "name": "Kitchen",
        "type": "shop/kitchen",
        "split": "test",
    }
    with (folder / "card.yaml").open("a") as written_by_hand:
        written_by_hand.write("language: no\n")  # Norwegian, and no word of YAML
    metadata = said()
    assert metadata["language"] == ["no"]
    before = (folder / "README.md").read_bytes(), (folder / "card.yaml").read_bytes()
    assert said() == metadata
    assert before == ((folder / "README.md").read_bytes(), (folder / "card.yaml").read_bytes())
    assert capsys.readouterr().out.splitlines()[-1] == f"saved to {folder / 'README.md'}"


@pytest.mark.parametrize("licence", sorted(LICENSES))
def test_every_licence_of_the_hub_is_taken(licence):
    assert CardSettings(licence=licence, licence_name="x").licence == licence


def test_a_licence_that_the_hub_does_not_know_can_be_mended(tmp_path):
    (tmp_path / "card.yaml").write_text("licence: my own\nnotes: kept\n")
    with pytest.raises(ValueError, match="my own"):
        CardSettings.of(tmp_path)
    CardSettings.of(tmp_path, licence="mit").save(tmp_path)
    assert CardSettings.of(tmp_path) == CardSettings(licence="mit", notes="kept")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--licence", "Apache 2.0"], "--licence 'Apache 2.0' is none that the Hub knows (is it apache-2.0?)"),
        (["--licence", "my own"], "or other with --licence-name"),
        (["--datasets", "a/b, c d"], "--datasets 'c d': "),
    ],
)
def test_what_the_hub_would_refuse_is_refused_by_the_argument(folder, capsys, flags, message):
    assert cli.main(["card", str(folder), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (folder / "README.md").exists()
    assert not (folder / "card.yaml").exists()


@pytest.mark.parametrize("handmade", ["# My model\n", None])
def test_readme_by_hand_is_kept_unless_told_otherwise(folder, capsys, handmade):
    """Whether all of it was written by hand, or a word of a written card changed."""
    path = folder / "README.md"
    changed = handmade or write_model_card(folder).read_text(encoding="utf-8").replace("Cold users", "New users")
    path.write_text(changed, encoding="utf-8")
    assert is_handmade(path)
    assert cli.main(["card", str(folder)]) == 2
    assert "README.md: was written or changed by hand" in capsys.readouterr().err
    refresh_model_card(folder)
    assert path.read_text(encoding="utf-8") == changed
    assert cli.main(["card", str(folder), "--overwrite"]) == 0
    assert not is_handmade(path)


def test_training_notes_its_data_and_what_it_began_with(data, tmp_path):
    accelerator = Accelerator(cpu=True)
    facts = run_facts("google-t5/t5-small", data, accelerator)
    assert facts["base_model"] == "google-t5/t5-small"
    assert run_facts(str(tmp_path), data, accelerator)["base_model"] is None  # a folder is no name on the Hub
    noted = facts["data"]
    assert (noted["users"], noted["items"], noted["split"]["test"]) == (40, 30, 40)
    assert sum(noted["split"].values()) == noted["interactions"] == len(data.interactions.items)
    assert noted["leave_one_out"]
    assert noted["prepared"] is None
    assert facts["environment"]["torch"] == torch.__version__
    json.dumps(facts)
