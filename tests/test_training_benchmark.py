"""The two forms that the training benchmark times do the same work; distillation is timed beside training without."""

import json

import pytest
import torch

from gram import GramConfig, GramForConditionalGeneration
from gram.benchmarks import distillation
from gram.benchmarks import training as benchmark
from gram.data import training_part


def test_the_padded_form_has_loss_gradients_of_the_fast_one(data, tokenizer):
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    model = GramForConditionalGeneration(GramConfig(vocab_size=512, max_history=8, **shape)).train()
    training = training_part(data)
    step = benchmark.Step(tokenizer, benchmark.users(training, range(3)), 300)
    assert len(step.samples) == int((training.lengths[:3] - 1).sum())
    assert len(step.micro_batches) > 1
    gradients = []
    for form, micro_batches in (("fast", step.micro_batches), ("padded", step.padded(1, len(step.samples)))):
        model.zero_grad()
        getattr(benchmark, form)(model, micro_batches, step.num_tokens)
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert (gradient - gradients[1][name]).abs().max() <= 1e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("draws", [0, 2])
def test_distillation_is_timed_beside_training_without(quickstart_run, tmp_path, capsys, monkeypatch, draws):
    monkeypatch.setattr(distillation, "in_fresh_process", lambda function, *given: function(*given))
    folder = quickstart_run[0]
    arguments = ["--data", str(folder / "data"), "--translation", str(folder), "--output-dir", str(tmp_path)]
    shape = ["--d-model", "16", "--num-layers", "1", "--max-history", "4", "--max-passage-length", "32"]
    teacher = ["--distillation-draws", str(draws), "--distillation-graph", "0.5"]
    distillation.main([*arguments, *shape, *teacher, "--steps", "2", "--repeats", "1", "--threads", "1"])
    report = json.loads((tmp_path / "distillation.json").read_text(encoding="utf-8"))
    assert report["samples a step"] > 0
    forms = [distillation.WITHOUT, distillation.SOFT, *([distillation.DRAWN] if draws else [])]
    assert [row["form"] for row in report["rows"]] == forms
    assert report["rows"][0]["times"] == 1
    assert all(row["seconds a step"] > 0 and row["peak_gb"] > 0 for row in report["rows"])
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in shown[2:]] == forms
