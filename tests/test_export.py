"""Exported graphs, and a client of them without torch: the same items and scores as the model's own."""

import copy
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, ItemTrie, cli
from gram.common.extras import MissingPackageError
from gram.common.provenance import hash_of_file
from gram.pipeline_gram import recommend_rows
from gram.serving.export import export_onnx, graphs

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

CLIENT = Path(__file__).parents[1] / "examples" / "recommend_with_onnx.py"
FILES = ["catalogue.parquet", "decoder.onnx", "encoder.onnx", "gram.json", "memory.onnx", "tokenizer.json", "trie.npz"]
HISTORIES = [[3], [5, 9, 9, 14, 2, 0, 28, 7, 11, 4, 21], list(range(20))]  # two longer than what is read


@pytest.fixture(scope="module", params=["vocabulary", "trie"])
def exported(request, model, tokenizer, tmp_path_factory):
    """A model by its score mode, its tokenizer, and the folder.

    The second is gated as T5 v1.1 is, with a head of its own; its users have no prompt, and it penalises length.
    """
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    if request.param == "trie":
        torch.manual_seed(1)
        shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 3}
        kind = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "score_mode": "trie"}
        config = GramConfig(vocab_size=len(tokenizer), max_history=8, initializer_factor=0.5, **shape, **kind)
        model = GramForConditionalGeneration(config).eval()
        model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
        model.generation_config.length_penalty = 0.5
        limits = {"max_history": 8, "max_passage_length": 20, "with_user_prompt": False}
        tokenizer = GramTokenizer.from_catalogue(tokenizer, tokenizer.catalogue, **limits)
    assert [path.name for path in export_onnx(model, tokenizer, folder)] == FILES
    return model, tokenizer, folder


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("num_beams", [5, 50])
def test_a_client_without_torch_recommends_what_the_model_does(exported, exclude_seen, num_beams):
    model, tokenizer, folder = exported
    client = runpy.run_path(str(CLIENT))
    loaded = client["load"](folder)
    options = {"top_k": 5 if num_beams == 5 else 30, "num_beams": num_beams, "exclude_seen": exclude_seen}
    for history in HISTORIES:
        (rows,), (scores,) = recommend_rows(model, tokenizer, [history], **options)
        found, found_scores = zip(*client["recommend"](loaded, history, **options), strict=True)
        assert list(found) == [row for row in rows.tolist() if row >= 0]
        np.testing.assert_allclose(found_scores, scores[rows >= 0], rtol=1e-5, atol=1e-4)
        assert exclude_seen is set(history).isdisjoint(found) or num_beams == 5


def test_graphs_take_any_number_of_users_prefixes_and_tokens(exported):
    model, _, folder = exported
    sizes = {"N": (1, 5), "L": (1, 9), "B": (1, 3), "M": (1, 11), "W": (1, 7), "V": (1, 4), "T": (0, 3), "F": (1, 5)}
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    draw = torch.Generator().manual_seed(0)
    for name, (module, inputs, shapes, outputs) in graphs(model).items():
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        assert [one.name for one in session.get_outputs()] == outputs
        for which in (0, 1):
            given = {}
            for (key, example), axes in zip(inputs.items(), shapes, strict=True):
                names = {place: "T" if dim is torch.export.Dim.DYNAMIC else dim.__name__ for place, dim in axes.items()}
                shape = [sizes[names[place]][which] if place in names else s for place, s in enumerate(example.shape)]
                numbers = torch.rand(shape, generator=draw)
                given[key] = numbers if example.is_floating_point() else (numbers > -1).to(example.dtype)
                given[key] = given[key] * 0 if key == "parents" else given[key]
                if key == "legal":
                    given[key][:, -1] = False  # a prefix that is padding
            with torch.no_grad():
                expected = module(**given)
            found = session.run(None, {key: values.numpy() for key, values in given.items()})
            expected = (expected,) if isinstance(expected, torch.Tensor) else expected
            for true, values in zip(expected, found, strict=True):
                torch.testing.assert_close(torch.from_numpy(values), true, rtol=1e-4, atol=1e-5)


def test_a_fresh_process_recommends_without_torch(exported):
    model, tokenizer, folder = exported
    script = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    script += "; assert not {'torch', 'transformers', 'gram'} & set(sys.modules)"
    ids = [tokenizer.item_ids[row] for row in HISTORIES[0]]
    command = [sys.executable, "-c", script, str(CLIENT), str(folder), "--history"]
    done = subprocess.run([*command, *ids], cwd=folder, capture_output=True, text=True, check=True)
    (rows,), (scores,) = recommend_rows(model, tokenizer, HISTORIES[:1])
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert [line[2] for line in lines] == [tokenizer.item_ids[row] for row in rows]
    assert [float(line[1]) for line in lines] == pytest.approx(scores.tolist(), abs=1e-3)
    failed = subprocess.run([*command, "nothing"], cwd=folder, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].endswith("error: not in the catalogue: nothing")


def test_files_are_what_the_settings_say(exported):
    _, tokenizer, folder = exported
    settings = json.loads((folder / "gram.json").read_text(encoding="utf-8"))
    assert settings["files"] == {name: hash_of_file(folder / name) for name in FILES if name != "gram.json"}
    text = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = text.encode("silk soap " * 40, add_special_tokens=False).ids
    prompt = [*settings["item_prompt_begins"], *ids][: settings["max_passage_length"] - 1]
    assert [*prompt, settings["eos_token_id"]] == tokenizer.text_prompts(["silk soap " * 40])[0]


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    model, tokenizer, model_folder, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "onnx"
    hooked = copy.deepcopy(model)
    hooked.decoder.block[0].register_forward_hook(lambda *given: None)
    with pytest.raises(ValueError, match="has hooks"):
        export_onnx(hooked, tokenizer, folder)
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, torch.qint8)
    with pytest.raises(ValueError, match="quantised"):
        export_onnx(quantised, tokenizer, folder)
    few = tokenizer.catalogue.slice(0, 29)
    nobody = pa.array([[]] * 29, few.schema.field("similar_items").type)
    few = few.set_column(few.column_names.index("similar_items"), "similar_items", nobody)
    other = GramTokenizer.from_catalogue(tokenizer, few)
    with pytest.raises(ValueError, match="the catalogue 29"):
        export_onnx(model, other, folder)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingPackageError, match=r"the export needs onnx.*\[onnx\]"):
        export_onnx(model, tokenizer, folder)
    monkeypatch.undo()
    monkeypatch.setattr(torch.onnx, "export", lambda *given, **options: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        export_onnx(model, tokenizer, folder)
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    (folder / "mine").touch()
    for words in (["export", model_folder, "--output", folder], ["export", tmp_path / "none", "--output", folder]):
        assert cli.main([str(word) for word in words]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Loading")]
        assert str(folder) in line or str(tmp_path / "none") in line
    assert [path.name for path in folder.iterdir()] == ["mine"]
