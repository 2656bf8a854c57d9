"""The paper's ablations: what each leaves out of the IDs, the prompts and the model, and that all else still agrees."""

import copy
import json
import shutil

import pytest
import torch
from transformers import CompileConfig

from gram import GramConfig, GramForConditionalGeneration, GramTokenizer, cli
from gram.data import training_part
from gram.item_cache_gram import ItemCache
from gram.tokenization_gram import PROMPT_WORDING
from gram.train_accelerate import main, train
from gram.training.settings import TrainingSettings
from gram.training.start import build_model
from gram.training.steps import TrainingSteps
from gram.translation import TranslationSettings, train_vocabulary, translate

PROMPT_PARTS = ("user_prompt", "item_prompts", "id_in_item_prompt")
OF_RUN = (*PROMPT_PARTS, "passage_position")
LIMITS = {"max_history": 8, "max_passage_length": 48}
SEARCH = {"num_beams": 30, "num_return_sequences": 30, "return_dict_in_generate": True}

# Run in a process that cannot import the package, on a copy of the folder.
ELSEWHERE = """
import json, sys
from transformers import AutoModel, AutoTokenizer
folders, histories = json.load(sys.stdin)
found = []
for folder in folders:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    cache = model.encode_items(tokenizer, progress=False)
    for cached in ({}, {"item_cache": cache}):
        inputs = tokenizer(histories=histories, item_prompts=not cached, return_tensors="pt")
        output = model.generate(**inputs, **cached, num_beams=30, num_return_sequences=5, return_dict_in_generate=True)
        found.append([output.item_indices.tolist(), output.sequences_scores.tolist()])
print(json.dumps(found))
"""


def tokenizer_without(tokenizer, part):
    parts = {f"with_{part}": False} if part in PROMPT_PARTS else {}
    return GramTokenizer.from_catalogue(tokenizer, tokenizer.catalogue, **LIMITS, **parts)


def model_without(model, part):
    """The same weights, those of the passage position too: it is the configuration that counts."""
    if part != "passage_position":
        return model
    ablated = GramForConditionalGeneration(GramConfig(**{**model.config.to_dict(), "passage_position": False}))
    ablated.load_state_dict(model.state_dict())
    return ablated.eval()


@pytest.fixture(scope="module")
def ablations(model, tokenizer):
    """For every part tokenizer and model without it; passage positions as large as encodings."""
    model = copy.deepcopy(model)
    model.position_embedding.weight.data.mul_(50)
    return {part: (tokenizer_without(tokenizer, part), model_without(model, part)) for part in OF_RUN}


@pytest.fixture(params=OF_RUN)
def ablated(request, ablations):
    return request.param, *ablations[request.param]


@pytest.fixture(scope="module")
def histories(tokenizer):
    return [tokenizer.item_ids[:3], tokenizer.item_ids[5:16], tokenizer.item_ids[7:8]]


def prompts_of(tokenizer, history):
    inputs = tokenizer(histories=[history])
    pairs = zip(inputs["input_ids"][0], inputs["attention_mask"][0], strict=True)
    return [ids[: sum(mask)] for ids, mask in pairs]


def test_without_user_prompt_the_item_prompts_keep_their_places(tokenizer):
    history = tokenizer.item_ids[2:5]
    before = prompts_of(tokenizer, history)
    assert prompts_of(tokenizer_without(tokenizer, "user_prompt"), history) == [[], *before[1:]]


def test_without_item_prompts_the_user_prompt_is_all(tokenizer):
    history = tokenizer.item_ids[2:5]
    before = prompts_of(tokenizer, history)
    assert prompts_of(tokenizer_without(tokenizer, "item_prompts"), history) == before[:1]


def test_without_the_id_an_item_prompt_has_all_else(tokenizer):
    without = tokenizer_without(tokenizer, "id_in_item_prompt")
    begin = tokenizer("item:", add_special_tokens=False)["input_ids"]
    for row, prompt in enumerate(tokenizer.item_prompts):
        own, end = tokenizer.lexical_ids[row], [tokenizer.eos_token_id]
        assert prompt[: len(begin) + len(own)] == begin + own
        rest, kept = prompt[len(begin) + len(own) : -1], without.item_prompts[row]
        assert kept[: len(begin) + len(rest)] == begin + rest
        if len(prompt) < LIMITS["max_passage_length"]:  # otherwise more of the text has room
            assert kept == begin + rest + end
    assert prompts_of(without, tokenizer.item_ids[:2])[0] == prompts_of(tokenizer, tokenizer.item_ids[:2])[0]


def test_without_passage_position_the_order_of_the_item_prompts_does_not_matter(model, tokenizer):
    inputs = tokenizer(histories=[tokenizer.item_ids[:4]], return_tensors="pt")
    turned = {name: torch.cat([values[:, :1], values[:, 1:].flip(1)], dim=1) for name, values in inputs.items()}
    labels = torch.tensor([tokenizer.sequences[9]])
    ablated = model_without(model, "passage_position")
    with torch.no_grad():
        one, two = (ablated(**prompts, labels=labels).logits for prompts in (inputs, turned))
        assert not torch.allclose(model(**inputs, labels=labels).logits, one, atol=1e-4)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_the_grouped_form_is_the_plain_form(ablated, data):
    part, tokenizer, model = ablated
    model = copy.deepcopy(model).double()  # in evaluation mode: no dropout; in float32 sums differ by their order
    model.position_embedding.requires_grad_(model.config.passage_position)
    training = training_part(data)
    steps = TrainingSteps(training, tokenizer, 24, 16, 4, seed=0, epoch=0)
    micro_batches, num_tokens = steps[0]
    if part == "item_prompts":
        assert not any(batch["history"]["attention_mask"].any() for batch in micro_batches)
    grouped = sum(model(**micro_batch, num_items_in_batch=num_tokens).loss for micro_batch in micro_batches)
    grouped.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()

    places = [(training[group.user], place) for group in steps.groups(0) for place in range(group.first, group.last)]
    inputs = tokenizer(
        histories=[[tokenizer.item_ids[row] for row in sequence[:place]] for sequence, place in places],
        return_tensors="pt",
    )
    targets = [torch.tensor(tokenizer.sequences[sequence[place]]) for sequence, place in places]
    labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
    plain = model(**inputs, labels=labels).loss
    plain.backward()
    torch.testing.assert_close(grouped, plain, rtol=1e-5, atol=0)
    for name, weight in model.named_parameters():
        if part == "passage_position" and name == "position_embedding.weight":
            assert weight.grad is gradients[name] is None
        else:
            assert weight.grad.abs().max() > 0, name
            error = (gradients[name] - weight.grad).abs().max() / weight.grad.abs().max()
            assert error < 1e-5, name  # T5 keeps some steps in float32


def test_every_way_to_recommend_gives_the_plain_forms_scores(ablated, histories):
    _, tokenizer, model = ablated
    inputs = tokenizer(histories=histories, return_tensors="pt")
    plain = model.generate(**inputs, **SEARCH)
    items, scores = plain.item_indices, plain.sequences_scores.view(3, 30)
    for rank in (0, 7, 29):
        targets = [torch.tensor(tokenizer.sequences[row]) for row in items[:, rank]]
        labels = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)
        with torch.no_grad():
            log_probs = model(**inputs, labels=labels).logits.log_softmax(-1)
        true = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels < 0, 0).sum(-1)
        torch.testing.assert_close(scores[:, rank], true / (labels >= 0).sum(-1))

    cached = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
    cached["item_cache"] = model.encode_items(tokenizer, progress=False)
    states = model.encode(inputs["input_ids"], inputs["attention_mask"])
    for options in (
        cached,
        {**cached, "cache_implementation": "static", "compile_config": CompileConfig(backend="eager")},
        {**inputs, "exact": True},
        {"encoder_outputs": states, "attention_mask": inputs["attention_mask"]},
    ):
        found = model.generate(**options, **SEARCH)
        assert torch.equal(found.item_indices, items)
        torch.testing.assert_close(found.sequences_scores.view(3, 30), scores)


def test_explanations_are_of_what_is_read(ablated, histories):
    part, tokenizer, model = ablated
    inputs = tokenizer(histories=histories, item_prompts=False, return_tensors="pt")
    cache = model.encode_items(tokenizer, progress=False)
    output = model.generate(**inputs, item_cache=cache, **SEARCH)
    why = model.explain(output.item_indices, **inputs, item_cache=cache)
    lengths = (why.num_items_left > 0).sum(-1)
    scores = (why.token_log_probs.sum(-1) / lengths).flatten()
    torch.testing.assert_close(scores, output.sequences_scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(why.attention_shares.sum(-1), torch.ones(3, 30))
    if part == "user_prompt":
        assert (why.attention_shares[..., 0] == 0).all()
    if part == "item_prompts":
        torch.testing.assert_close(why.attention_shares[..., 0], torch.ones(3, 30))


def test_saved_folders_recommend_the_same_elsewhere(ablations, histories, tmp_path, run_elsewhere):
    expected = []
    for part, (tokenizer, model) in ablations.items():
        for saved in (model, tokenizer):
            saved.save_pretrained(tmp_path / part)
        inputs = tokenizer(histories=histories, return_tensors="pt")
        expected += [model.generate(**inputs, **{**SEARCH, "num_return_sequences": 5})] * 2  # with a cache, and without
    found = run_elsewhere(ELSEWHERE, [[str(tmp_path / part) for part in ablations], histories])
    for (items, scores), output in zip(found, expected, strict=True):
        assert items == output.item_indices.tolist()
        torch.testing.assert_close(torch.tensor(scores), output.sequences_scores)


def test_the_cache_of_a_model_without_item_prompts_is_empty(model, tokenizer, tmp_path):
    without = tokenizer_without(tokenizer, "item_prompts")
    states, lengths = ItemCache.in_memory(model, without).gather([3, 7])
    assert (states.shape, lengths.tolist()) == ((0, model.config.d_model), [0, 0])
    with pytest.raises(ValueError, match="without item prompts; there is nothing to encode"):
        model.encode_items(without, tmp_path / "shards", progress=False)
    assert not (tmp_path / "shards").exists()


def test_encodings_of_other_item_prompts_are_refused(model, tokenizer, tmp_path):
    model.encode_items(tokenizer, tmp_path / "shards", progress=False)
    ItemCache.open(tmp_path / "shards", model, tokenizer_without(tokenizer, "user_prompt"))
    with pytest.raises(ValueError, match="other item prompts"):
        ItemCache.open(tmp_path / "shards", model, tokenizer_without(tokenizer, "id_in_item_prompt"))


def test_neither_kind_of_prompt_is_refused(tokenizer):
    with pytest.raises(ValueError, match="user_prompt and item_prompts are both off"):
        TrainingSettings("data", "run", user_prompt=False, item_prompts=False)
    with pytest.raises(ValueError, match="nothing to read"):
        parts = {"with_user_prompt": False, "with_item_prompts": False}
        GramTokenizer.from_catalogue(tokenizer, tokenizer.catalogue, **parts)


def test_a_tokenizer_or_a_start_with_other_parts_is_refused(data, model, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="user_prompt=True, not False; give --user-prompt true"):
        train(TrainingSettings("data", str(tmp_path / "run"), user_prompt=False, **LIMITS), data, tokenizer)
    model_without(model, "passage_position").save_pretrained(tmp_path / "start")
    start = {"data": "data", "output_dir": "run", "init_from": str(tmp_path / "start"), **LIMITS}
    with pytest.raises(ValueError, match=r"start: was made with passage_position=False, not True"):
        build_model(TrainingSettings(**start), tokenizer)
    again = build_model(TrainingSettings(**start, passage_position=False), tokenizer)
    assert not again.position_embedding.weight.requires_grad


def test_without_hierarchy_an_id_is_of_its_own_text_alone(data):
    words = train_vocabulary([*data.items.texts, *PROMPT_WORDING], 400)

    def ids_of(texts):
        changed = copy.deepcopy(data)
        changed.items.texts[:] = texts
        settings = TranslationSettings(depth=3, hierarchy=False, num_similar=0, encoder="no/such-encoder")
        return translate(changed, words, settings, progress=False).catalogue["lexical_id"].to_pylist()

    texts = data.items.texts
    ids = ids_of(texts)
    assert len(set(map(tuple, ids))) == len(texts)
    for text, tokens in zip(texts, ids, strict=True):
        path = [token for token in tokens if len(token.replace("▁", "")) > 1]
        assert len(path) == 3
        assert set(path) <= set(words.tokenize(text.lower()))
    turned = ids_of(texts[::-1])[::-1]
    assert [tokens[:2] for tokens in turned] == [tokens[:2] for tokens in ids]  # only the last tells twins apart


@pytest.fixture(scope="module")
def run_of(quickstart_run, tmp_path_factory):
    """Trains a tiny GRAM on the films of the quickstart, with flags; those on the translation translate anew."""
    films, folder = quickstart_run[0], tmp_path_factory.mktemp("ablations")
    (folder / "recipe.yaml").write_text((films.parent / "recipe.yaml").read_text())

    def run(*flags, translate_anew=False):
        output = folder / "".join(flags).strip("-").replace("=", "-")
        places = [f"--config={folder / 'recipe.yaml'}", f"--data={films / 'data'}", f"--output-dir={output}"]
        given = [] if translate_anew else [f"--translation={films / 'translation'}"]
        if not output.exists():
            main([*places, *given, *flags])
        return output, films / "data"

    return run


@pytest.mark.parametrize("part", OF_RUN)
def test_a_run_without_a_part_leaves_a_model_without_it(run_of, part):
    folder, _ = run_of(f"--{part.replace('_', '-')}=false")
    tokenizer = GramTokenizer.from_pretrained(folder)
    model = GramForConditionalGeneration.from_pretrained(folder)
    parts = {name: getattr(tokenizer, f"with_{name}") for name in PROMPT_PARTS}
    assert {**parts, "passage_position": model.config.passage_position} == {name: name != part for name in OF_RUN}
    assert bool(model.position_embedding.weight.any()) == (part != "passage_position")
    assert json.loads((folder / "training.json").read_text())["settings"][part] is False
    assert f"`{part}` False" in (folder / "README.md").read_text()


@pytest.mark.parametrize("flag", ["--hierarchy=false", "--num-similar=0"])
def test_a_run_of_another_translation_finishes(run_of, flag):
    folder, _ = run_of(flag, translate_anew=True)
    made = {path.name for path in (folder / "translation").iterdir()}
    similar = GramTokenizer.from_pretrained(folder).catalogue["similar_items"].to_pylist()
    if flag == "--hierarchy=false":
        assert not made & {"tree.safetensors", "vectors.safetensors"}
    else:
        assert "sasrec.safetensors" not in made
        assert not any(similar)


@pytest.mark.parametrize("flag", ["--user-prompt=false", "--item-prompts=false", "--num-similar=0"])
def test_the_commands_follow_the_model(run_of, flag, tmp_path, capsys):
    folder, data = run_of(flag, translate_anew=flag == "--num-similar=0")
    folder = shutil.copytree(folder, tmp_path / "model")
    output = folder / "evaluation.json"
    search = ["--num-beams", "5", "--output", output]
    item = GramTokenizer.from_pretrained(folder).item_ids[0]
    for argv in (
        ["evaluate", folder, "--data", data, *search],
        ["card", folder],
        ["recommend", folder, "--history", item, "--top-k", "3"],
    ):
        assert cli.main([str(word) for word in argv]) == 0, capsys.readouterr().err
    assert json.loads(output.read_text())["models"]["GRAM"]["all_items"]["recall@5"]["mean"] >= 0
    encoded = cli.main(["encode", str(folder)])
    assert encoded == (2 if flag == "--item-prompts=false" else 0)
    assert ("nothing to encode" in capsys.readouterr().err) == (flag == "--item-prompts=false")
