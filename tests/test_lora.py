"""LoRA: the fast forms with adapters at work, and what a run with `--lora` leaves."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file

from gram import GramForConditionalGeneration, GramTokenizer
from gram.data import read_folder, training_part
from gram.train_accelerate import train
from gram.training.settings import TrainingSettings
from gram.training.steps import TrainingSteps

from .test_training import as_flags, refusal, train_until

EVERY_LAYER = ["q", "k", "v", "o", "wi", "wo"]
LIMITS = {"max_history": 4, "max_passage_length": 32}  # of the quickstart's recipe in conftest.py

ELSEWHERE = """
import json, sys
sys.modules["peft"] = None
given = json.load(sys.stdin)
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(given["folder"], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(given["folder"], trust_remote_code=True)
inputs = tokenizer(histories=given["histories"], return_tensors="pt")
found = model.generate(**inputs, num_beams=10, num_return_sequences=3, return_dict_in_generate=True)
print(json.dumps([found.item_indices.tolist(), found.sequences_scores.tolist()]))
"""


@pytest.fixture(scope="module")
def base(quickstart_run) -> Path:
    return quickstart_run[0]


@pytest.fixture(scope="module")
def films(base):
    return read_folder(base / "data")


@pytest.fixture(scope="module")
def words(base) -> GramTokenizer:
    return GramTokenizer.from_pretrained(base)


def lora_settings(base, output_dir, **changes) -> TrainingSettings:
    fields = {"epochs": 2, "batch_size": 32, "micro_batch_size": 16, "prefixes_per_group": 4, "validation_beams": 5}
    fields |= {"learning_rate": 0.02, "dropout_rate": 0.0, "lora": 4, "save_every": 2, **LIMITS, **changes}
    return TrainingSettings(data=str(base / "data"), output_dir=str(output_dir), init_from=str(base), **fields)


def adapted(base, targets=EVERY_LAYER) -> PeftModel:
    """The trained model with adapters that are large enough to matter."""
    model = GramForConditionalGeneration.from_pretrained(base, dropout_rate=0.0).eval()
    config = LoraConfig(r=2, target_modules=targets, modules_to_save=["position_embedding"])
    model, draw = get_peft_model(model, config), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            scale = 3.0 if "position_embedding" in name else 0.3
            weight.data = torch.randn(weight.shape, generator=draw) * scale
    return model


def passages(tokenizer, histories):
    return tokenizer(histories=[[tokenizer.item_ids[row] for row in past] for past in histories], return_tensors="pt")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_grouped_form_with_adapters_is_the_plain_form(base, films, words, checkpointing):
    model, training = adapted(base), training_part(films)
    model.train()
    steps = TrainingSteps(training, words, 24, 64, 4, seed=0, epoch=0)
    micro_batches, num_tokens = steps[0]
    if checkpointing:
        model.gradient_checkpointing_enable()
    grouped = sum(model(**batch, num_items_in_batch=num_tokens).loss for batch in micro_batches)
    grouped.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()

    samples = [(training[group.user], place) for group in steps.groups(0) for place in range(group.first, group.last)]
    inputs = passages(words, [sequence[:place][-4:] for sequence, place in samples])
    targets = [torch.tensor(words.sequences[sequence[place]]) for sequence, place in samples]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    plain = model(**inputs, labels=labels).loss
    plain.backward()
    torch.testing.assert_close(grouped, plain, rtol=1e-5, atol=0)
    assert len(found) > 2 * len(EVERY_LAYER)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad.abs().max() > 0, name
            assert (found[name] - weight.grad).abs().max() < 1e-4 * weight.grad.abs().max(), name


@torch.no_grad()
def generated(model, tokenizer, cached: bool, **options):
    histories = [[3, 7], [11, 2, 9]]
    inputs = passages(tokenizer, histories)
    if cached:
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        options["item_cache"] = base.encode_items(tokenizer, progress=False)
        ids = [[tokenizer.item_ids[row] for row in past] for past in histories]
        inputs = tokenizer(histories=ids, item_prompts=False, return_tensors="pt")
    many = {"num_beams": 20, "num_return_sequences": 20, "return_dict_in_generate": True}
    return model.generate(**inputs, **many, **options)


@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_recommending_with_adapters_scores_as_the_plain_form_and_as_merged(base, words, cached):
    model = adapted(base)
    output = generated(model, words, cached)
    scores, items = output.sequences_scores.view(2, 20), output.item_indices
    for user, history in enumerate([[3, 7], [11, 2, 9]]):
        for row, score in list(zip(items[user].tolist(), scores[user], strict=True))[::5]:
            labels = torch.tensor([words.sequences[row]])
            logits = model(**passages(words, [history]), labels=labels).logits
            expected = logits.log_softmax(-1).gather(-1, labels[..., None]).mean()
            torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        assert not torch.allclose(generated(model, words, cached).sequences_scores, output.sequences_scores, atol=1e-2)
    merged = generated(model.merge_and_unload(), words, cached)
    assert torch.equal(merged.item_indices, items)
    torch.testing.assert_close(merged.sequences_scores, output.sequences_scores, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_adapter_on_the_head_counts_in_scores_over_the_trie(base, words):
    model = adapted(base, ["q", "lm_head"])
    output = generated(model, words, cached=False, score_mode="trie")
    for row, score in list(zip(output.item_indices[0].tolist(), output.sequences_scores[:20], strict=True))[::5]:
        spelt = words.sequences[row]
        logits = model(**passages(words, [[3, 7]]), labels=torch.tensor([spelt])).logits[0]
        expected = 0.0
        for place, token in enumerate(spelt):
            legal = sorted({other[place] for other in words.sequences if other[:place] == spelt[:place]})
            expected += logits[place, legal].log_softmax(-1)[legal.index(token)].item() / len(spelt)
        assert score.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def trained(base, films, words, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "model"
    train(lora_settings(base, folder), films, words)
    return folder


def test_a_run_leaves_a_merged_model_that_loads_without_peft(trained, base, words, run_elsewhere):
    model = GramForConditionalGeneration.from_pretrained(trained).eval()
    assert model.lm_head.weight is model.shared.weight
    before, after = load_file(base / "model.safetensors"), load_file(trained / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    adapted = {name for name in before if name.split(".")[-2] in ("q", "v")}
    assert changed == {*adapted, "position_embedding.weight"}
    for name in ("lexical_ids.parquet", "catalogue.parquet"):
        assert (trained / name).is_file() == (base / name).is_file()
    histories = [[words.item_ids[3], words.item_ids[7]]]
    inputs = words(histories=histories, return_tensors="pt")
    own = model.generate(**inputs, num_beams=10, num_return_sequences=3, return_dict_in_generate=True)
    items, scores = run_elsewhere(ELSEWHERE, {"folder": str(trained), "histories": histories})
    assert items == own.item_indices.tolist()
    assert scores == pytest.approx(own.sequences_scores.tolist(), rel=1e-5, abs=1e-5)


def test_the_adapter_on_its_base_gives_the_scores_of_the_merged_model(trained, base, words):
    assert sorted(path.name for path in (trained / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, str(base))
    assert not [name for name in load_file(trained / "adapter" / "adapter_model.safetensors") if "shared" in name]
    merged = generated(GramForConditionalGeneration.from_pretrained(trained).eval(), words, cached=False)
    by_peft = PeftModel.from_pretrained(GramForConditionalGeneration.from_pretrained(base), trained / "adapter").eval()
    by_transformers = GramForConditionalGeneration.from_pretrained(base)
    by_transformers.load_adapter(str(trained / "adapter"))
    for model in (by_peft, by_transformers.eval()):
        output = generated(model, words, cached=False)
        assert torch.equal(output.item_indices, merged.item_indices)
        torch.testing.assert_close(output.sequences_scores, merged.sequences_scores, rtol=1e-5, atol=1e-5)


def test_transformers_add_adapter_saves_an_adapter_that_peft_reads(base, words, tmp_path):
    model = GramForConditionalGeneration.from_pretrained(base).eval()
    model.add_adapter(LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False))
    output = generated(model, words, cached=False)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(GramForConditionalGeneration.from_pretrained(base), tmp_path).eval()
    found = generated(again, words, cached=False)
    torch.testing.assert_close(found.sequences_scores, output.sequences_scores, rtol=1e-5, atol=1e-5)


def test_resuming_gives_bit_identical_adapters(trained, base, films, words, tmp_path):
    settings = lora_settings(base, tmp_path / "resumed")
    train_until(4, settings, films, words)
    assert [path.name for path in (tmp_path / "resumed" / "checkpoints").glob("step-*")] == ["step-00000002"]
    train(settings, films, words)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "resumed" / name).read_bytes() == (trained / name).read_bytes()


def test_two_processes_with_gradient_checkpointing_learn_the_same_adapters(trained, base, launch, tmp_path):
    settings = lora_settings(base, tmp_path / "model", gradient_checkpointing=True)
    done = launch(*as_flags(settings))
    assert done.returncode == 0, done.stderr
    assert "LoRA of rank 4 trains 848 of 7,312 weights" in done.stderr
    expected, found = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (trained, tmp_path / "model")
    )
    assert expected.keys() == found.keys()
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=0, atol=2e-3, msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": 0}, "lora is 0; it must be a whole number, at least 1"),
        ({"lora_alpha": 0.0}, "lora_alpha is 0.0; it must be a number, above 0, or none"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0; it must be a number, at least 0 and below 1"),
        ({"lora_targets": " "}, "lora_targets must name a layer"),
        ({"backbone": "t5"}, "init_from brings its own weights and tokenizer"),
        ({"init_from": None}, "lora adapts weights that have been trained before; give backbone or init_from"),
    ],
)
def test_settings_that_cannot_be_are_named(base, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**{**vars(lora_settings(base, tmp_path)), **changes})


@pytest.mark.parametrize("target", ["lm_head", "shared", "wi_0"])
def test_layers_that_can_have_no_adapter_are_named(base, films, words, tmp_path, target):
    with pytest.raises(ValueError, match=f"lora_targets: no layer '{target}' can have an adapter; choose of"):
        train(lora_settings(base, tmp_path / "model", lora_targets=f"q,{target}"), films, words)


def test_another_catalogue_is_refused(base, tmp_path, capsys):
    shutil.copytree(base / "data", tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "item_text.tsv").write_text("asin\ttitle\nA\tOne\nB\tTwo\n")
    (tmp_path / "other" / "user_sequence.txt").write_text("U A B A B\n")
    settings = lora_settings(base, tmp_path / "model")
    settings.data = str(tmp_path / "other")
    assert "item A is not in the model's catalogue; `gram add-items`" in refusal(capsys, *as_flags(settings))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("soft_prompt", [PromptTuningConfig, PrefixTuningConfig])
def test_soft_prompts_are_refused(model, soft_prompt):
    with pytest.raises(ValueError, match="a GRAM takes no soft prompts"):
        get_peft_model(copy.deepcopy(model), soft_prompt(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3))
