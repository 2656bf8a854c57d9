"""IDs of codes: residual k-means, new tokens, and a model that is trained on them and generates nothing else."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from gram import GramForConditionalGeneration, GramTokenizer
from gram.common.provenance import read_provenance
from gram.data import training_part
from gram.training.settings import TrainingSettings
from gram.training.start import build_model
from gram.training.steps import TrainingSteps
from gram.translation import TranslationSettings, train_vocabulary, translate, write_report
from gram.translation.codes import code_ids, code_tokens, residual_codes
from gram.translation.tokenizer_folder import make_tokenizer_folder

CHOSEN = {"id_tokens": "codes", "num_codebooks": 2, "codebook_size": 4, "similar_items": "item-knn", "vocab_size": 400}
LIMITS = {"max_history": 8, "max_passage_length": 48}
SHAPE = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 2}


def make(data, folder, text_tokenizer=None, **changes):
    settings = TranslationSettings(**{**CHOSEN, **changes})
    return folder, make_tokenizer_folder(data, folder, settings, text_tokenizer, progress=False, **LIMITS)


@pytest.fixture(scope="module")
def translated(data, tmp_path_factory):
    return make(data, tmp_path_factory.mktemp("translations") / "codes")


@pytest.fixture(scope="module")
def tokenizer(translated):
    return GramTokenizer.from_pretrained(translated[0])


def test_vectors_of_one_kind_share_their_first_codes():
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(5, 4, 8))  # 5 kinds, 4 sorts of each
    kinds = 20 * centres[:, :1] + centres
    vectors = (kinds[:, :, None] + 0.01 * draw.normal(size=(5, 4, 3, 8))).reshape(60, 8)
    codes = residual_codes(vectors, num_codebooks=3, codebook_size=5)
    first = codes[:, 0].reshape(5, 12)
    assert (first == first[:, :1]).all()
    assert len(np.unique(first)) == 5
    assert (codes >= 0).all()
    assert (codes < 5).all()
    assert np.array_equal(residual_codes(vectors, 3, 5), codes)


def test_more_levels_leave_less_over():
    vectors = np.random.default_rng(0).normal(size=(200, 4))
    distinct = [len(np.unique(residual_codes(vectors, levels, 8), axis=0)) for levels in (1, 2, 3)]
    assert distinct[0] == 8
    assert distinct[0] < distinct[1] < distinct[2] <= 200


def test_items_of_equal_vectors_are_told_apart_by_the_last_token():
    codes = residual_codes(np.repeat(np.eye(2), 20, axis=0), num_codebooks=2, codebook_size=3)
    named = code_ids(codes)
    assert len(set(map(tuple, named))) == 40
    assert [tokens[-1] for tokens in named] == [f"<c_{number}>" for number in [*range(20), *range(20)]]
    assert {token for tokens in named for token in tokens} <= set(code_tokens(codes, 3))
    sizes = {"a": 3, "b": 3, "c": 20}
    assert code_tokens(codes, 3) == [f"<{level}_{number}>" for level in sizes for number in range(sizes[level])]


def test_a_catalogue_of_codes(data, translated, tokenizer, tmp_path):
    folder, statistics = translated
    lexical_ids = tokenizer.catalogue["lexical_id"].to_pylist()
    assert len(set(map(tuple, lexical_ids))) == 30
    assert all([token[1] for token in tokens] == ["a", "b", "c"] for tokens in lexical_ids)
    shared = [tokens[:2] for tokens in lexical_ids]
    assert statistics.suffixed == sum(shared.count(codes) > 1 for codes in shared) > 0
    assert statistics.duplicates == 0
    assert read_provenance(folder / "codes.safetensors")["settings"] == {
        "codebook_size": 4,
        "num_codebooks": 2,
        "seed": 0,
    }
    write_report(tokenizer.catalogue, statistics, tmp_path / "report.html")
    assert "<a_" not in (tmp_path / "report.html").read_text("utf-8")  # escaped, as all that stands in the script
    again, _ = make(data, tmp_path / "again")
    for name in ("tokenizer.json", "catalogue.parquet", "codes.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "redone"),
    [
        ({}, set()),
        ({"depth": 3}, set()),
        ({"codebook_size": 5}, {"codes.safetensors", "catalogue.parquet", "tokenizer.json", "tokenizer_config.json"}),
        ({"num_codebooks": 3}, {"codes.safetensors", "catalogue.parquet", "tokenizer.json", "tokenizer_config.json"}),
        ({"num_similar": 3}, {"similar_items.parquet", "catalogue.parquet", "tokenizer_config.json"}),
    ],
)
def test_a_changed_setting_redoes_what_depends_on_it(data, tmp_path, changes, redone):
    folder, _ = make(data, tmp_path / "codes")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make(data, folder, **changes)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in before if before[name] != after[name]} == redone


def test_a_folder_goes_from_words_to_codes_and_back(data, tmp_path):
    folder, _ = make(data, tmp_path / "ids", id_tokens="lexical")
    words = (folder / "catalogue.parquet").read_bytes()
    make(data, folder)
    assert GramTokenizer.from_pretrained(folder).catalogue["lexical_id"][0].as_py()[0].startswith("<a_")
    make(data, folder, id_tokens="lexical")
    assert (folder / "catalogue.parquet").read_bytes() == words
    assert "<a_0>" not in GramTokenizer.from_pretrained(folder).get_vocab()


def test_codes_are_tokens_like_others(translated, tokenizer):
    words = train_vocabulary(["red shoe"], 40)
    before = words.backend_tokenizer.to_str()
    GramTokenizer.from_catalogue(words, tokenizer.catalogue, code_tokens(np.array([[3, 3], [3, 3]]), 30))
    assert words.backend_tokenizer.to_str() == before
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    codes = [token for token in vocabulary if token.startswith("<a_")]
    assert len(codes) == 4
    assert not set(codes) & set(tokenizer.all_special_tokens)
    history = [tokenizer.item_ids[row] for row in (7, 3)]
    assert tokenizer.decode_items([tokenizer.sequences[3], tokenizer.sequences[7]]) == [history[::-1]]
    prompt = tokenizer.convert_ids_to_tokens(tokenizer.user_prompt([7, 3]))
    spelled = [token for token in prompt if token.startswith(("<a_", "<b_", "<c_"))]
    assert spelled == [token for row in (7, 3) for token in tokenizer.catalogue["lexical_id"][row].as_py()]


def trained(model, tokenizer, data, steps=30):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    losses = []
    for epoch in range(steps):
        (batch, *_), num_tokens = TrainingSteps(training_part(data), tokenizer, 256, 256, 16, seed=0, epoch=epoch)[0]
        loss = model(**batch, num_items_in_batch=num_tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_model_learns_codes_and_generates_items_elsewhere_too(data, tokenizer, tmp_path, run_elsewhere):
    torch.manual_seed(0)
    settings = TrainingSettings(data="data", output_dir="model", dropout_rate=0.0, **SHAPE, **LIMITS)
    model = build_model(settings, tokenizer)
    assert len(tokenizer) <= model.config.vocab_size < len(tokenizer) + 64
    losses = trained(model, tokenizer, data)
    assert losses[-1] < losses[0] / 2
    history = [tokenizer.item_ids[row] for row in (3, 7, 12)]
    inputs = tokenizer(histories=[history], return_tensors="pt")
    sequences = model.eval().generate(**inputs, num_beams=30, num_return_sequences=30)
    (found,) = tokenizer.decode_items(sequences)
    assert sorted(found) == sorted(tokenizer.item_ids)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, history = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(histories=[history], return_tensors="pt")
print(json.dumps(tokenizer.decode_items(model.generate(**inputs, num_beams=30, num_return_sequences=30))))
"""
    assert run_elsewhere(script, [str(tmp_path / "model"), history]) == [found]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def backbone(request, data, tmp_path_factory):
    """A T5 folder with 10 rows behind its tokens, far smaller than the rest."""
    words, folder = train_vocabulary(data.items.texts, 300), tmp_path_factory.mktemp("backbones") / "t5"
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(words) + 10, tie_word_embeddings=request.param, decoder_start_token_id=0, **SHAPE)
    model = T5ForConditionalGeneration(config)
    if not request.param:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, config.d_model) + 3)
    for table in {model.shared.weight, model.lm_head.weight}:
        table.data[len(words) :] = 100
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_backbone_makes_room_for_codes(backbone, data, tmp_path):
    folder, _ = make(data, tmp_path / "codes", str(backbone), codebook_size=30)
    tokenizer, words = GramTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(backbone)
    t5 = T5ForConditionalGeneration.from_pretrained(backbone)
    settings = TrainingSettings(data="data", output_dir="model", backbone=str(backbone), dropout_rate=0.0, **LIMITS)
    assert len(tokenizer) == len(words) + 3 * 30 > t5.config.vocab_size
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(settings, tokenizer))
    model = models[0]
    assert model.config.vocab_size == len(model.shared.weight) == len(model.lm_head.weight) >= len(tokenizer)
    assert (model.lm_head.weight is model.shared.weight) == (t5.lm_head.weight is t5.shared.weight)
    for name in ("shared", "lm_head"):
        old, new = getattr(t5, name).weight, getattr(model, name).weight
        assert new[: len(words)].equal(old[: len(words)])
        assert abs(new[len(words) :].mean() - old[: len(words)].mean()) < 0.2
        assert abs(new[len(words) :].std() / old[: len(words)].std() - 1) < 0.2
        assert new.equal(getattr(models[1], name).weight)
    losses = trained(model, tokenizer, data, steps=10)
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path / "model")
    loaded = GramForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert loaded.shared.weight.equal(model.shared.weight)
    assert loaded.lm_head.weight.equal(model.lm_head.weight)


def test_a_backbone_of_another_vocabulary_is_refused(backbone, data, translated):
    settings = TrainingSettings(data="data", output_dir="model", backbone=str(backbone), **LIMITS)
    longer = GramTokenizer.from_pretrained(translated[0])
    longer.add_tokens([f"word{number}" for number in range(400)])
    with pytest.raises(ValueError, match="translate with the backbone's tokenizer"):
        build_model(settings, longer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id_tokens": "words"}, "id_tokens is 'words'; it must be one of lexical, codes"),
        ({"num_codebooks": 0}, "num_codebooks is 0; it must be a whole number, at least 1 and at most 25"),
        ({"num_codebooks": 26}, "num_codebooks is 26; it must be a whole number, at least 1 and at most 25"),
        ({"codebook_size": 1}, "codebook_size is 1; it must be a whole number, at least 2"),
        ({"lexical_ids": "ids.txt"}, "lexical_ids is a file of IDs in words"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        TranslationSettings(**{**CHOSEN, **changes})


def test_more_codes_than_items(data, tokenizer):
    with pytest.raises(ValueError, match="codebook_size is 256; it must be at most the number of items, 30"):
        translate(data, tokenizer, TranslationSettings(id_tokens="codes", num_similar=0), progress=False)
