"""T5's kin as backbones, each a tiny local folder: translation, training, recommending, saving."""

import json

import pytest
import torch
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from gram import GramTokenizer
from gram.data import training_part
from gram.training.settings import TrainingSettings
from gram.training.start import build_model
from gram.training.steps import TrainingSteps
from gram.translation import TranslationSettings, train_vocabulary
from gram.translation.tokenizer_folder import make_tokenizer_folder

SHAPE = {"d_model": 32, "d_ff": 48, "decoder_start_token_id": 0}
UNTIED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BACKBONES = {  # heads times their width is not always the model's width, nor has the decoder always as many layers
    "flan-t5": (T5Config, {**UNTIED, "d_kv": 8, "num_heads": 6, "num_layers": 2}),
    "t5-v1_1": (T5Config, {**UNTIED, "d_kv": 16, "num_heads": 2, "num_layers": 1}),
    "t5-efficient": (T5Config, {"d_kv": 16, "num_heads": 4, "num_layers": 1, "num_decoder_layers": 3}),
    "mt5": (MT5Config, {**UNTIED, "d_kv": 16, "num_heads": 3, "num_layers": 1, "vocab_size": 1000}),
}
OTHER_TONGUES = ["Crème für die Haut", "シャンプー", "крем для рук", "shampooing à l'huile"]


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request, data, tmp_path_factory):
    """A folder as the Hub holds it: weights, a configuration of the few fields that it has there, a tokenizer."""
    config_class, fields = BACKBONES[request.param]
    texts = [*data.items.texts, *(OTHER_TONGUES * 20 if request.param == "mt5" else [])]
    words, folder = train_vocabulary(texts, 300), tmp_path_factory.mktemp("backbones") / request.param
    torch.manual_seed(0)
    config = config_class(**{"vocab_size": len(words) + 28, **SHAPE, **fields})
    model = (MT5ForConditionalGeneration if request.param == "mt5" else T5ForConditionalGeneration)(config)
    if fields.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, config.d_model))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    known = {**SHAPE, **fields, "vocab_size": config.vocab_size, "model_type": config.model_type}
    ids = {"pad_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps({**known, **ids, "architectures": [type(model).__name__]}))
    return folder


@pytest.fixture(scope="module")
def started(backbone, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("translations") / backbone.name
    translation = TranslationSettings(num_clusters=4, depth=3, num_similar=2, similar_items="item-knn")
    limits = {"max_history": 8, "max_passage_length": 48}
    make_tokenizer_folder(data, folder, translation, str(backbone), progress=False, **limits)
    tokenizer = GramTokenizer.from_pretrained(folder)
    options = {"backbone": str(backbone), "dropout_rate": 0.0, **limits}
    model = build_model(TrainingSettings(data="data", output_dir="model", **options), tokenizer)
    model.position_embedding.weight.data.mul_(20)
    return model, tokenizer


def passages(tokenizer, histories):
    return tokenizer(histories=[[tokenizer.item_ids[row] for row in past] for past in histories], return_tensors="pt")


def test_the_backbones_own_logits_come_out_where_there_is_one_passage(backbone, started):
    model, kind = (
        started[0].eval(),
        MT5ForConditionalGeneration if backbone.name == "mt5" else T5ForConditionalGeneration,
    )
    t5 = kind.from_pretrained(backbone).eval()
    tied = backbone.name == "t5-efficient"
    assert (model.lm_head.weight is model.shared.weight) == model.config.scale_decoder_outputs == tied
    assert model.position_embedding.weight.shape == (9, 32)
    ids, labels = torch.tensor([[7, 8, 1]]), torch.tensor([[5, 9, 1]])
    kept = model.position_embedding.weight.data.clone()
    with torch.no_grad():
        model.position_embedding.weight.zero_()
        found = model(input_ids=ids[:, None], labels=labels).logits
        model.position_embedding.weight.copy_(kept)
        torch.testing.assert_close(found, t5(input_ids=ids, labels=labels).logits, rtol=1e-4, atol=1e-5)


def test_a_step_of_the_fast_form_is_one_of_the_plain_form(started, data):
    model, tokenizer = started
    training = training_part(data)
    steps = TrainingSteps(training, tokenizer, 16, 64, 4, seed=0, epoch=0)
    micro_batches, num_tokens = steps[0]
    model.train().zero_grad()
    grouped = sum(model(**batch, num_items_in_batch=num_tokens).loss for batch in micro_batches)
    grouped.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    samples = [(training[group.user], place) for group in steps.groups(0) for place in range(group.first, group.last)]
    targets = [torch.tensor(tokenizer.sequences[sequence[place]]) for sequence, place in samples]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    plain = model(**passages(tokenizer, [sequence[:place] for sequence, place in samples]), labels=labels).loss
    plain.backward()
    torch.testing.assert_close(grouped, plain, rtol=1e-5, atol=0)
    for name, weight in model.named_parameters():
        assert weight.grad.abs().max() > 0, name
        assert (found[name] - weight.grad).abs().max() < 1e-4 * weight.grad.abs().max(), name
    with torch.no_grad():
        for weight in model.parameters():
            weight -= 0.1 * weight.grad / weight.grad.norm()
        after = model(**passages(tokenizer, [sequence[:place] for sequence, place in samples]), labels=labels).loss
    assert after < plain


@torch.no_grad()
def test_recommending_scores_as_the_plain_form_and_survives_saving(started, tmp_path, run_elsewhere):
    model, tokenizer = started
    model.eval()
    output = model.generate(
        **passages(tokenizer, [[3, 7, 12]]), num_beams=30, num_return_sequences=30, return_dict_in_generate=True
    )
    assert sorted(output.item_indices[0].tolist()) == list(range(30))
    for row, score in list(zip(output.item_indices[0].tolist(), output.sequences_scores, strict=True))[::6]:
        labels = torch.tensor([tokenizer.sequences[row]])
        logits = model(**passages(tokenizer, [[3, 7, 12]]), labels=labels).logits
        expected = logits.log_softmax(-1).gather(-1, labels[..., None]).mean()
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folder, history = json.load(sys.stdin)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(histories=[history], return_tensors="pt")
found = model.generate(**inputs, num_beams=30, num_return_sequences=30, return_dict_in_generate=True)
print(json.dumps([found.item_indices[0].tolist(), found.sequences_scores.tolist()]))
"""
    items, scores = run_elsewhere(script, [str(tmp_path / "model"), [tokenizer.item_ids[row] for row in (3, 7, 12)]])
    assert items == output.item_indices[0].tolist()
    assert scores == pytest.approx(output.sequences_scores.tolist(), rel=1e-5, abs=1e-5)
