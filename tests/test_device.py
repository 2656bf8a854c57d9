"""What hangs on the device: on the CPU, and on CUDA too where there is one. `benchmarks/gpu.sh` runs these on a GPU."""

import pytest
import torch
from transformers.generation import CompileConfig

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer
from gram.benchmarks import training as training_benchmark
from gram.benchmarks.generation import Bench, plain_scores
from gram.benchmarks.gpu import TOY, TOY_MODEL, write_inputs
from gram.data import read_folder, training_part
from gram.item_cache_gram import ItemCache

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # relative, with room for what bf16 rounds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder, and beside it a tokenizer."""
    folder = tmp_path_factory.mktemp("device") / "toy"
    write_inputs(folder, TOY)
    return folder


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return torch.device(request.param)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request):
    return request.param


def bench_on(folder, device, dtype):
    """A model on the device that tells its items apart, and a cache of them all."""
    bench = Bench(folder, f"{folder}-ids", vocab_size=TOY["pieces"], initializer_factor=2.0, **TOY_MODEL)
    bench.model.to(device, dtype)
    bench.cache = ItemCache.in_memory(bench.model, bench.tokenizer)
    return bench


@pytest.fixture(scope="module")
def bench(folder, device):
    return bench_on(folder, device, torch.float32)


def items_of(bench, output):
    """Item ids of each user, best first."""
    return bench.tokenizer.decode_items(output.sequences, num_return_sequences=10)


def test_the_grouped_form_has_the_gradients_of_the_plain_one(folder, device, dtype):
    torch.manual_seed(0)
    tokenizer = GramTokenizer.from_pretrained(f"{folder}-ids")
    config = GramConfig(vocab_size=TOY["pieces"], dropout_rate=0.0, **TOY_MODEL)
    model = GramForConditionalGeneration(config).train().to(device)
    training = training_part(read_folder(folder))
    step = training_benchmark.Step(tokenizer, training_benchmark.users(training, range(4)), 300)
    few = step.padded(1, len(step.samples))
    gradients = []
    for form, micro_batches in (("fast", step.micro_batches), ("padded", few)):
        model.zero_grad()
        getattr(training_benchmark, form)(model, micro_batches, step.num_tokens, bf16=dtype is torch.bfloat16)
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    grouped, plain = gradients
    assert grouped.device.type == device.type
    assert (grouped - plain).norm() <= CLOSE[dtype] * plain.norm()


def test_scores_are_those_of_the_plain_form(folder, device, dtype):
    bench = bench_on(folder, device, dtype)
    for history in bench.users(4):
        output = bench.ours([history])()
        assert output.sequences_scores.device.type == device.type
        expected = plain_scores(bench, history, output.item_indices[0])
        torch.testing.assert_close(output.sequences_scores, expected, rtol=CLOSE[dtype], atol=0)


def test_steps_of_one_shape_change_nothing(bench, device):
    # On a GPU as a user would have it: compiled, and replayed as a CUDA graph.
    eager = {} if device.type == "cuda" else {"compile_config": CompileConfig(backend="eager")}
    for seed in (0, 1):
        users = bench.users(3, seed=seed)
        plain, static = bench.ours(users)(), bench.ours(users, cache_implementation="static", **eager)()
        assert items_of(bench, static) == items_of(bench, plain)
        torch.testing.assert_close(static.sequences_scores, plain.sequences_scores, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_cached_items_are_as_good_as_their_prompts(bench, tmp_path, kind):
    users = bench.users(3)
    inputs = bench.tokenizer(histories=users, return_tensors="pt").to(bench.model.device)
    options = {"num_beams": 50, "num_return_sequences": 10, "return_dict_in_generate": True}
    plain, whole = bench.model.generate(**inputs, **options), bench.cache
    assert len({item for items in items_of(bench, plain) for item in items} - set(bench.tokenizer.item_ids)) == 0
    try:
        for place in (None, tmp_path / kind):  # on the device, and in files
            bench.cache = bench.model.encode_items(bench.tokenizer, place, dtype=kind, progress=False)
            found = bench.ours(users)()
            close = 1e-4 if kind == "float32" else 0.01
            torch.testing.assert_close(found.sequences_scores, plain.sequences_scores, rtol=close, atol=0)
            if kind == "float32":
                assert items_of(bench, found) == items_of(bench, plain)
    finally:
        bench.cache = whole


def test_an_explanation_adds_up(bench):
    users = bench.users(3)
    output = bench.ours(users)()
    inputs = bench.tokenizer(histories=users, item_prompts=False, return_tensors="pt").to(bench.model.device)
    why = bench.model.explain(output.item_indices, **inputs, item_cache=bench.cache)
    assert why.attention_shares.device.type == bench.model.device.type
    torch.testing.assert_close(why.attention_shares.sum(-1), torch.ones_like(why.attention_shares[..., 0]))
    tokens = [[len(bench.tokenizer.sequences[row]) for row in rows] for rows in output.item_indices.tolist()]
    scores = why.token_log_probs.sum(-1).cpu() / torch.tensor(tokens)
    torch.testing.assert_close(scores.flatten(), output.sequences_scores.cpu(), rtol=1e-4, atol=0)


def test_exact_search_finds_what_as_many_beams_as_items_find(bench):
    users = bench.users(3)
    beams, inputs = bench.ours(users)(), bench.tokenizer(histories=users, item_prompts=False, return_tensors="pt")
    options = {"exact": True, "num_return_sequences": 10, "return_dict_in_generate": True}
    exact = bench.model.generate(**inputs.to(bench.model.device), item_cache=bench.cache, **options)
    assert items_of(bench, exact) == items_of(bench, beams)
    torch.testing.assert_close(exact.sequences_scores, beams.sequences_scores, rtol=1e-4, atol=0)
    assert (exact.num_scored_nodes > 0).all()
