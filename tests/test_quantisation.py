"""Weights in int8: every search is by what the quantised layers compute, and what cannot be kept is refused."""

import copy
import warnings

import pytest
import torch

from gram import GramForConditionalGeneration, cli
from gram.common.provenance import hash_of_model
from gram.pipeline_gram import recommend_rows
from gram.serving.recommendation import Recommender

from .test_weights import answers, assert_close, assert_near, edit_through_data, scores

HISTORY = [3, 9, 14]
IN_INT8 = 0.2  # how far answers may be off, of the largest


@pytest.fixture(scope="module")
def inputs(tokenizer):
    return tokenizer(histories=[tokenizer.item_ids[:8], tokenizer.item_ids[9:11]], return_tensors="pt")


def by_torch_ao(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, torch.qint8)


@torch.no_grad()
def by_forward(model, tokenizer) -> list[float]:
    """Every item's score by the plain forward pass."""
    inputs = tokenizer(rows=[HISTORY], return_tensors="pt")
    labels = [torch.tensor([sequence]) for sequence in tokenizer.sequences]
    log_probs = [model(**inputs, labels=label).logits.log_softmax(-1).gather(-1, label[..., None]) for label in labels]
    return [float(values.mean()) for values in log_probs]


def by_search(model, tokenizer) -> list[float]:
    (rows,), (found,) = recommend_rows(model, tokenizer, [HISTORY], top_k=30, exclude_seen=False)
    return found[rows.argsort()].tolist()


def test_layers_of_torch_ao_are_searched_with(model, tokenizer, inputs):
    changed = copy.deepcopy(model)
    edit_through_data(changed, tokenizer)
    quantised = by_torch_ao(changed)
    found, true = answers(quantised, inputs), answers(changed, inputs)
    off = (found["beams"] - true["beams"]).abs().max()
    assert 1e-4 < off < (scores(model, inputs) - true["beams"]).abs().max() / 2  # the quantised weights, not the old
    assert by_search(quantised, tokenizer) == pytest.approx(by_forward(quantised, tokenizer), rel=IN_INT8)
    cached = Recommender(quantised, tokenizer, item_cache=quantised.encode_items(tokenizer, progress=False))
    (rows,), (near,) = cached.recommend_rows([HISTORY], cached.item_cache, top_k=30, exclude_seen=False)
    assert near[rows.argsort()].tolist() == pytest.approx(by_search(quantised, tokenizer), rel=IN_INT8)


def test_what_torch_ao_makes_is_not_kept_and_that_is_said(model, tokenizer, tmp_path):
    quantised = by_torch_ao(model)
    for keep in (
        lambda: quantised.save_pretrained(tmp_path / "model"),
        lambda: quantised.encode_items(tokenizer, tmp_path / "items", progress=False),
        lambda: hash_of_model(quantised),
    ):
        with pytest.raises(ValueError, match=r"torch\.ao has quantised the model in memory"):
            keep()
    assert not list(tmp_path.iterdir())


def torchao_config(name):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    return getattr(quantization, name)()


@pytest.mark.parametrize("name", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_layers_of_torchao_are_searched_with_saved_and_loaded(model, model_folder, tokenizer, inputs, name, tmp_path):
    from transformers import TorchAoConfig

    config = TorchAoConfig(torchao_config(name))
    quantised = GramForConditionalGeneration.from_pretrained(model_folder, quantization_config=config).eval()
    assert type(quantised.encoder.block[0].layer[1].DenseReluDense.wo.weight).__module__.startswith("torchao.")
    found = answers(quantised, inputs)
    assert_near(found, answers(model, inputs), IN_INT8)
    near = 1e-4 if name == "Int8WeightOnlyConfig" else IN_INT8
    assert by_search(quantised, tokenizer) == pytest.approx(by_forward(quantised, tokenizer), rel=near)
    assert by_search(quantised, tokenizer) != pytest.approx(by_search(model, tokenizer), abs=1e-5)

    quantised.save_pretrained(tmp_path / "int8")
    tokenizer.save_pretrained(tmp_path / "int8")
    again = GramForConditionalGeneration.from_pretrained(tmp_path / "int8").eval()
    assert_close(answers(again, inputs), found)
    quantised.encode_items(tokenizer, tmp_path / "int8" / "item_encodings", progress=False)
    again.encode_items(tokenizer, tmp_path / "int8" / "item_encodings", progress=False)  # it fits
    with pytest.raises(ValueError, match="other weights of the encoder"):
        model.encode_items(tokenizer, tmp_path / "int8" / "item_encodings", progress=False)
    (tmp_path / "users.txt").write_text("anna B0003 B0007\n")
    words = ["recommend", tmp_path / "int8", "--users", tmp_path / "users.txt", "--output", tmp_path / "table.csv"]
    assert cli.main([str(word) for word in words]) == 0
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 11


def test_what_torchao_makes_in_memory_is_not_saved(model, tmp_path):
    config, quantised = torchao_config("Int8WeightOnlyConfig"), copy.deepcopy(model)
    from torchao.quantization import quantize_

    quantize_(quantised, config)
    with pytest.raises(ValueError, match="load it with a TorchAoConfig to save it"):
        quantised.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())
