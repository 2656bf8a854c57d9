"""Whatever is done to the weights, however they are kept, the answers are those of the same weights loaded afresh."""

import copy

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters
from torch.utils._python_dispatch import TorchDispatchMode

from gram import GramConfig, GramForConditionalGeneration, ItemTrie
from gram.data import training_part
from gram.training.steps import TrainingSteps

HALVES = {torch.float16: 0.02, torch.bfloat16: 0.1}  # and how far answers may be off, of the largest
LAYERS = ["q", "k", "v", "o", "wi", "wo"]
SEARCHES = {"beams": {}, "trie": {"score_mode": "trie"}, "exact": {"exact": True}}


@pytest.fixture(scope="module")
def inputs(tokenizer):
    return tokenizer(histories=[tokenizer.item_ids[:8], tokenizer.item_ids[9:11]], return_tensors="pt")


def scores(model, inputs, **search) -> torch.Tensor:
    """Every item's score for each of two users, in rows' order."""
    options = {"num_beams": 30, "num_return_sequences": 30, "return_dict_in_generate": True}
    output = model.generate(**inputs, **options, **search)
    return output.sequences_scores.view(2, 30).gather(1, output.item_indices.argsort(dim=1))


def answers(model, inputs) -> dict[str, torch.Tensor]:
    """Scores by every kind of search, and why."""
    explained = model.explain(torch.arange(30).expand(2, -1), **inputs)
    found = {name: scores(model, inputs, **search) for name, search in SEARCHES.items()}
    return {**found, "shares": explained.attention_shares, "tokens": explained.token_log_probs}


def assert_close(found, expected, **tolerance):
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def assert_near(found, expected, tolerance):
    for name, values in expected.items():
        assert (found[name].float() - values).abs().max() < tolerance * values.abs().max(), name


def afresh(model) -> GramForConditionalGeneration:
    fresh = GramForConditionalGeneration(copy.deepcopy(model.config)).eval()
    fresh.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    return fresh


def merge_an_adapter(model, tokenizer):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=4, target_modules=["q", "v", "wo"], lora_alpha=64, init_lora_weights=False)
    return peft.get_peft_model(model, config).merge_and_unload()


def train_with(**options):
    def change(model, tokenizer):
        inputs = tokenizer(histories=[tokenizer.item_ids[:3]], return_tensors="pt")
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
        for _ in range(2):
            model(**inputs, labels=torch.tensor(tokenizer.sequences[4:5])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return change


def edit_through_data(model, tokenizer):
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))


def write_as_a_vector(model, tokenizer):
    vector_to_parameters(parameters_to_vector(model.parameters()).detach() * 1.1, model.parameters())


def round_through_half(model, tokenizer):
    model.bfloat16().float()


def load_others(**options):
    def change(model, tokenizer):
        model.load_state_dict(
            {name: value * 1.1 if value.is_floating_point() else value for name, value in model.state_dict().items()},
            **options,
        )

    return change


def prune_layers(model, tokenizer):
    for name, layer in model.named_modules():
        if name.endswith(("SelfAttention.q", "DenseReluDense.wo")):
            prune.l1_unstructured(layer, "weight", 0.5)
            prune.remove(layer, "weight")


def add_tokens(model, tokenizer):
    torch.manual_seed(0)
    model.resize_token_embeddings(model.config.vocab_size + 7, mean_resizing=False)


CHANGES = {
    "merged adapter": merge_an_adapter,
    "fused optimizer": train_with(fused=True),
    "foreach optimizer": train_with(foreach=True),
    "plain optimizer": train_with(foreach=False, fused=False),
    "edits through data": edit_through_data,
    "vector_to_parameters": write_as_a_vector,
    "dtype round trip": round_through_half,
    "load_state_dict": load_others(),
    "load_state_dict, assign": load_others(assign=True),
    "pruning": prune_layers,
    "more tokens": add_tokens,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_a_change_the_answers_are_those_of_the_same_weights_loaded_afresh(model, tokenizer, inputs, change):
    changed = copy.deepcopy(model)
    before, before_of_items = answers(changed, inputs), changed.encode_items(tokenizer, progress=False).gather([3])[0]
    changed = change(changed, tokenizer) or changed
    found, fresh = answers(changed, inputs), afresh(changed)
    rounding = {"rtol": 1e-5, "atol": 1e-4}  # weights of another address may be summed in another order
    assert_close(found, answers(fresh, inputs), **rounding)
    assert_close(answers(copy.deepcopy(changed), inputs), found, **rounding)
    assert (found["beams"] - before["beams"]).abs().max() > 1e-2
    of_items = changed.encode_items(tokenizer, progress=False).gather([3])[0]
    torch.testing.assert_close(of_items, fresh.encode_items(tokenizer, progress=False).gather([3])[0])
    assert torch.equal(of_items, before_of_items) == (change is add_tokens)


def test_weights_that_a_hook_makes_are_heeded(model, inputs):
    """Pruning, before it is made permanent, computes the weight when the layer is called."""
    changed = copy.deepcopy(model)
    for name, layer in changed.named_modules():
        if name.endswith((".q", ".wo", "layer_norm")):
            prune.random_unstructured(layer, "weight", 0.5)
    found = answers(changed, inputs)
    for layer in changed.modules():
        if prune.is_pruned(layer) and "weight_orig" in layer._parameters:
            prune.remove(layer, "weight")
    assert_close(found, answers(changed, inputs))


def offload_to_disk(model, folder):
    return disk_offload(model, folder, execution_device=torch.device("cpu"))


def spread_over_a_map(model, folder):
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    parts = {"shared": "cpu", "encoder": "disk", "decoder": "cpu", "lm_head": "disk", "position_embedding": "disk"}
    return dispatch_model(model, {**parts, "item_trie": "cpu"}, main_device="cpu", offload_dir=folder, force_hooks=True)


OFFLOADS = {
    "CPU": lambda model, folder: cpu_offload(model, execution_device=torch.device("cpu")),
    "disk": offload_to_disk,
    "device map": spread_over_a_map,
}


@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS)
def test_offloaded_weights_give_the_same_answers(model, tokenizer, inputs, offload, tmp_path):
    expected, labels = answers(model, inputs), torch.tensor(tokenizer.sequences[4:6])
    offloaded = offload(copy.deepcopy(model), str(tmp_path / "weights"))
    assert any(weight.is_meta for weight in offloaded.parameters())
    assert_close(answers(offloaded, inputs), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(offloaded(**inputs, labels=labels).loss, model(**inputs, labels=labels).loss)
    cache = offloaded.encode_items(tokenizer, tmp_path / "items", progress=False)
    torch.testing.assert_close(cache.gather([3, 7])[0], model.encode_items(tokenizer, progress=False).gather([3, 7])[0])
    model.encode_items(tokenizer, tmp_path / "items", progress=False)  # it fits: the weights are the same


@pytest.mark.parametrize("memory", [None, {"cpu": "40KB"}], ids=["enough", "little"])
def test_a_model_loaded_by_a_device_map_gives_the_same_answers(model, model_folder, inputs, memory, tmp_path):
    options = {"device_map": "auto", "max_memory": memory, "offload_folder": str(tmp_path)}
    loaded = GramForConditionalGeneration.from_pretrained(model_folder, **options).eval()
    assert any(weight.is_meta for weight in loaded.parameters()) == (memory is not None)
    assert_close(answers(loaded, inputs), answers(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_model_loaded_in_half_precision_answers_nearly_alike(model, model_folder, tokenizer, inputs, dtype):
    """In float16 T5 keeps the feed-forward's output layer in float32."""
    half = GramForConditionalGeneration.from_pretrained(model_folder, dtype=dtype).eval()
    of_output_layer = half.encoder.block[0].layer[1].DenseReluDense.wo.weight.dtype
    assert of_output_layer == (torch.float32 if dtype == torch.float16 else dtype)
    assert half.shared.weight.dtype == dtype
    assert_near(answers(half, inputs), answers(model, inputs), HALVES[dtype])
    labels = torch.tensor(tokenizer.sequences[4:6])
    with torch.no_grad():
        torch.testing.assert_close(
            half(**inputs, labels=labels).loss, model(**inputs, labels=labels).loss, rtol=0.02, atol=0
        )
    lean = tokenizer(histories=[tokenizer.item_ids[:8]], item_prompts=False, return_tensors="pt")
    options = {"num_beams": 30, "num_return_sequences": 1, "return_dict_in_generate": True}
    near, true = (
        of.generate(**lean, **options, item_cache=of.encode_items(tokenizer, progress=False)).sequences_scores
        for of in (half, model)
    )
    assert_near({"cached": near}, {"cached": true}, HALVES[dtype])


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_autocast_and_whole_models_in_half_answer_nearly_alike(model, inputs, dtype):
    expected = answers(model, inputs)
    with torch.autocast("cpu", dtype):
        found = answers(model, inputs)
    assert_near(found, expected, HALVES[dtype])
    assert_near(answers(copy.deepcopy(model).to(dtype), inputs), expected, HALVES[dtype])


@pytest.fixture
def batch(data, tokenizer):
    micro_batches, num_tokens = TrainingSteps(training_part(data), tokenizer, 16, 64, 4, 0, 0)[0]
    return {**micro_batches[0], "num_items_in_batch": num_tokens}


def gradients(model, batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_gradients_close(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= 1e-4 * gradient.abs().max(), name


def test_a_half_precision_load_learns_from_the_same_gradients_nearly(model, model_folder, batch):
    half = GramForConditionalGeneration.from_pretrained(model_folder, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        torch.testing.assert_close(half(**batch).loss, model(**batch).loss, rtol=0.02, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients(half, batch).values())


def test_hooks_run_wherever_they_are_and_change_nothing(model, tokenizer, inputs, batch):
    hooked, ran = copy.deepcopy(model), set()
    expected, expected_gradients = answers(hooked, inputs), gradients(hooked, batch)
    skipped = ("item_trie", "DenseReluDense.act")
    modules = {name: module for name, module in hooked.named_modules() if not name.endswith(skipped)}
    watched = {name for name in modules if name.startswith(("encoder.", "decoder."))}
    watched -= {name for name in watched if isinstance(modules[name], torch.nn.ModuleList)}
    for name in watched:
        modules[name].register_forward_hook(lambda *_, name=name: ran.add(name))
    for name, search in SEARCHES.items():
        ran.clear()
        torch.testing.assert_close(scores(hooked, inputs, **search), expected[name], rtol=1e-5, atol=1e-5)
        assert ran == watched
    ran.clear()
    assert_gradients_close(gradients(hooked, batch), expected_gradients)
    assert ran == watched
    ran.clear()
    hooked(**inputs, labels=torch.tensor(tokenizer.sequences[4:6]))
    assert ran == watched


def test_a_hook_that_changes_a_blocks_output_changes_the_answers(model, inputs):
    changed = copy.deepcopy(model)
    changed.decoder.block[0].register_forward_hook(lambda _, given, output: (output[0] + 1, *output[1:]))
    assert (scores(changed, inputs) - scores(model, inputs)).abs().max() > 1e-2


class Halved(torch.Tensor):
    """A weight that stores half of each number: only in a product is it what it stands for, as a quantised one is."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.linear:
            states, weight = args[:2]
            return torch.nn.functional.linear(states, weight.as_subclass(torch.Tensor) * 2)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_weight_that_is_no_plain_tensor_is_used_through_its_layer(model, inputs):
    changed = copy.deepcopy(model)
    for name, layer in changed.named_modules():
        if name.endswith(("lm_head", ".q", ".v", ".wo")):
            stored = (layer.weight.detach() / 2).as_subclass(Halved)
            layer.weight = torch.nn.Parameter(stored, requires_grad=False)
            assert type(layer.weight) is Halved
    assert_close(answers(changed, inputs), answers(model, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_with_frozen_embeddings_gives_the_same_gradients(model, batch, reentrant):
    """As for adapters: the embeddings learn nothing, and their output is made to require gradients by a hook."""
    frozen = copy.deepcopy(model).train()
    for module in frozen.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    frozen.requires_grad_(False)
    for name, weight in frozen.named_parameters():
        weight.requires_grad_(name.split(".")[-2] in LAYERS)
    expected = gradients(frozen, batch)
    assert len(expected) > len(LAYERS)
    frozen.activation_checkpointing_enable({"use_reentrant": reentrant})
    frozen.enable_input_require_grads()
    assert_gradients_close(gradients(frozen, batch), expected)


def test_another_default_device_or_dtype_changes_nothing(model, tokenizer, inputs):
    items = torch.arange(30).expand(2, -1)

    def everything():
        trie = type(model.item_trie).from_sequences(tokenizer.sequences)
        cache = model.encode_items(tokenizer, dtype="int8", progress=False)
        options = {"num_beams": 5, "num_return_sequences": 3, "return_dict_in_generate": True, "item_trie": trie}
        outputs = [model.generate(**inputs, **options, **more) for more in ({}, {"exact": True})]
        explained = model.explain(items, **inputs)
        return [cache.gather([3])[0], *(output.sequences_scores for output in outputs), explained.token_log_probs]

    expected = everything()
    with torch.device("meta"):
        found = everything()
    torch.set_default_dtype(torch.float64)
    try:
        also = everything()
    finally:
        torch.set_default_dtype(torch.float32)
    for values, others, true in zip(found, also, expected, strict=True):
        torch.testing.assert_close(values, true)
        torch.testing.assert_close(others, true)


def test_a_wide_search_costs_in_proportion_to_its_beams():
    """The largest tensor of a search grows with the beams, not with their square."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            for tensor in output if isinstance(output, tuple | list) else (output,):
                self.size = max(self.size, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return output

    shape = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = GramForConditionalGeneration(GramConfig(**shape, max_history=4)).eval()
    model.set_item_trie(
        ItemTrie.from_sequences(
            [[2 + a, 2 + b, 2 + c, 2 + d, 1] for a in range(6) for b in range(6) for c in range(6) for d in range(6)]
        )
    )
    sizes = []
    for beams in (100, 400):
        with Largest() as largest:
            model.generate(torch.full((1, 2, 4), 5), num_beams=beams)
        sizes.append(largest.size)
    assert sizes[1] < 5 * sizes[0]
