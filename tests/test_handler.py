"""The handler of Inference Endpoints, loaded by its file alone from a trained model's folder."""

import configparser
import shutil
from pathlib import Path

import pytest

from gram import cli
from gram.data import read_folder
from gram.hub.contents import contents
from gram.serving.recommendation import Recommender

ROOT = Path(__file__).parents[1]

# As the endpoint's server does: the file is loaded by its place, and its class is given the folder.
ENDPOINT = """
import importlib.util, json, sys
try:
    import gram
    raise SystemExit("the package can be imported here")
except ImportError:
    pass
folder, requests, limits = json.load(sys.stdin)
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def answer(handler, request):
    try:
        return handler(request)
    except ValueError as error:
        return str(error)
answers = []
for module.MOST_MEGABYTES in limits:
    handler = module.EndpointHandler(folder)
    cache = handler.pipeline.item_cache
    answers.append([cache and cache.dtype, [answer(handler, request) for request in requests]])
    requests = requests[:1]
print(json.dumps(answers))
"""

WRONG = [
    ([["1"]], "a request is of the form"),
    ({"parameters": {}}, "a request is of the form"),
    ({"inputs": "1"}, "`inputs` must be a list of item ids, or of such lists, got str"),
    ({"inputs": None}, "`inputs` must be a list of item ids, or of such lists, got NoneType"),
    ({"inputs": []}, "empty list"),
    ({"inputs": [["1"]], "parameters": {"only": ["XXX"]}}, "item 'XXX' is not in the catalogue"),
    ({"inputs": ["1", 2]}, "item ids are strings, got 2"),
    ({"inputs": [["1"]], "parameters": [5]}, "`parameters` must be an object, got list"),
    ({"inputs": [["1"]], "parameters": {"top_n": 5}}, "there is no parameter 'top_n'; there are top_k"),
    ({"inputs": [["1"]], "parameters": {"top_k": 0}}, "top_k is 0; it must be at least 1"),
    ({"inputs": [["1"]], "parameters": {"top_k": 1.5}}, "top_k is 1.5; it must be a whole number"),
    ({"inputs": [["1"]], "parameters": {"exclude_seen": "false"}}, "exclude_seen is 'false'; it must be True or False"),
    ({"inputs": [["1"]], "parameters": {"score_mode": "best"}}, "score_mode is 'best'; it must be one of"),
]


@pytest.fixture(scope="module")
def folder(quickstart_run, tmp_path_factory):
    return shutil.copytree(quickstart_run[0], tmp_path_factory.mktemp("endpoint") / "films")


def assert_same(found, expected):
    for user, items in zip(found, expected, strict=True):
        assert [(item["item_id"], item["title"]) for item in user] == [(item.item_id, item.title) for item in items]
        assert [item["score"] for item in user] == pytest.approx([item.score for item in items], rel=1e-5, abs=1e-5)


def test_answers_as_the_recommender_does(folder, run_elsewhere):
    data = read_folder(folder / "data")
    histories = [[data.items.item_ids[row] for row in data.interactions[user]] for user in range(5)]
    recommender = Recommender.from_pretrained(folder)
    expected = recommender.recommend(histories, top_k=4)
    others = data.items.item_ids[::2]
    shutil.copy(ROOT / "hub" / "handler.py", folder)
    requests = [
        {"inputs": histories, "parameters": {"top_k": 4}},
        {"inputs": histories[0], "parameters": {"top_k": 4, "num_beams": 20, "exclude_seen": True}},
        {"inputs": histories[0]},
        {"inputs": histories, "parameters": {"only": others, "exclude": others[:2], "where": "year<1985"}},
        {"inputs": histories, "parameters": {"cold_share": 0.5, "cold_below": 12}},
        *(request for request, _ in WRONG),
    ]
    (first, answers), (second, (without_cache,)) = run_elsewhere(ENDPOINT, [str(folder), requests, [256, 0]])
    assert (first, second) == ("float32", None)
    assert_same(answers[0], expected)
    assert_same(without_cache, expected)
    assert_same(answers[1:3], [expected[0], recommender.recommend(histories[:1])[0]])
    assert_same(answers[3], recommender.recommend(histories, only=others, exclude=others[:2], where=["year<1985"]))
    assert_same(answers[4], recommender.recommend(histories, cold_share=0.5, cold_below=12))
    for (_, message), answer in zip(WRONG, answers[5:], strict=True):
        assert message in answer


def test_opens_the_item_encodings_of_the_folder(folder, run_elsewhere, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "films")
    assert cli.main(["encode", str(folder), "--dtype", "bfloat16"]) == 0
    shutil.copy(ROOT / "hub" / "handler.py", folder)
    item = Recommender.from_pretrained(folder).tokenizer.item_ids[0]
    ((dtype, (answer,)),) = run_elsewhere(ENDPOINT, [str(folder), [{"inputs": [item]}], [256]])
    assert dtype == "bfloat16"
    assert [each.item_id for each in Recommender.from_pretrained(folder).recommend([[item]])[0]] == [
        each["item_id"] for each in answer
    ]


def test_files_of_an_endpoint(folder):
    found = contents(folder)
    assert found["handler.py"].read_bytes() == (ROOT / "hub" / "handler.py").read_bytes()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    ours = setup["options"]["install_requires"].split()
    assert set(found["requirements.txt"].read_text().split()) <= set(ours)
