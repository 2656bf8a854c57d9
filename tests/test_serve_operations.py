"""A server in operation: what is sold out, another model without a pause, and who may ask."""

import asyncio
import shutil
import signal
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from gram.benchmarks.serving import RIGHT, Request, load, make_requests
from gram.item_cache_gram import ItemCache
from gram.serving.catalogue_changes import remove_items
from gram.serving.http.served import Served
from gram.serving.recommendation import Recommender

from .answers import assert_answers
from .waiting import PATIENCE


@pytest.fixture(scope="module")
def folder(quickstart_run):
    return quickstart_run[0]


@pytest.fixture(scope="module")
def recommender(folder):
    recommender = Recommender.from_pretrained(folder)
    recommender.item_cache = ItemCache.in_memory(recommender.model, recommender.tokenizer)
    return recommender


@pytest.fixture(scope="module")
def client(folder, forked_server, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "server.log"
    with forked_server(folder, log) as server, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


def test_what_is_unavailable_is_recommended_to_nobody_from_the_next_request_on(client, recommender):
    (found,) = recommender.recommend([["1", "2"]], top_k=2)
    gone = [item.item_id for item in found]
    for item in gone:
        assert client.put(f"/items/{item}/availability", json={"available": False}).json() == {"available": False}
        assert client.get(f"/items/{item}").json()["available"] is False
    assert client.get("/health").json()["unavailable"] == 2
    histories = [["1", "2"], [], ["3"]]
    assert_answers(client.post("/recommend", json={"histories": histories}), recommender, histories, exclude=gone)
    left = next(item for item in ("9", "10", "11") if item not in gone)
    for only, expected in ((gone, []), ([gone[0], left], [left])):
        answer = client.post("/recommend", json={"histories": [["1"]], "only": only}).json()
        assert [[item["item_id"] for item in user] for user in answer["recommendations"]] == [expected]
    for item in gone:
        client.put(f"/items/{item}/availability", json={"available": True})
    assert_answers(client.post("/recommend", json={"histories": histories}), recommender, histories)
    assert client.get("/health").json()["unavailable"] == 0


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/items/XXX/availability", {"available": False}, 404, "item 'XXX' is not in the catalogue"),
        ("/items/1/availability", {"available": "no"}, 422, "available: Input should be a valid boolean"),
        ("/items/1/availability", {}, 422, "available: Field required"),
    ],
)
def test_bad_availability_changes_nothing(client, path, body, status, says):
    answer = client.put(path, json=body)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True)
    assert client.get("/health").json()["unavailable"] == 0


@dataclass(frozen=True)
class EitherRequest(Request):
    """What either of two models answers is right."""

    other: Request

    def judge(self, answer):
        return RIGHT if RIGHT in (super().judge(answer), self.other.judge(answer)) else "neither"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_model_is_exchanged_under_many_clients(folder, recommender, forked_server, tmp_path):
    served, fewer = shutil.copytree(folder, tmp_path / "served"), tmp_path / "fewer"
    remove_items(served, ["3", "4", "5"], fewer, progress=False)
    histories = [[str(1 + (user * step) % 20) for step in range(1, 2 + user % 8)] for user in range(40)]
    models = (recommender, Recommender.from_pretrained(fewer))
    old, new = (make_requests(model, histories, 60, seed=0) for model in models)
    either = [EitherRequest(one.body, one.expected, other) for one, other in zip(old, new, strict=True)]

    async def exchange(server):
        asking = asyncio.ensure_future(load(server, either, clients=200, seconds=1))
        served.rename(tmp_path / "old")
        fewer.rename(served)
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
            before = (await client.get("/health")).json()
            server.process.send_signal(signal.SIGHUP)
            outcomes = []
            while (health := (await client.get("/health")).json())["since"] == before["since"]:
                outcomes.append(await load(server, either, clients=5, seconds=0))
        outcomes.append(await asking)
        assert {verdict for outcome in outcomes for verdict in +outcome.verdicts} == {RIGHT}
        assert (before["num_items"], health["num_items"]) == (20, 17)
        return await load(server, new, clients=20, seconds=0)

    with forked_server(served, tmp_path / "log") as server:
        outcome = asyncio.run(exchange(server))
        assert set(+outcome.verdicts) == {RIGHT}
        assert server.stop() == 0


def test_a_reload_keeps_what_is_unavailable_and_a_failed_one_the_model(recommender, caplog):
    models = [Recommender(recommender.model, recommender.tokenizer) for _ in range(2)]
    served = Served(list(reversed(models)).pop)
    served.recommender.set_available(["3", "5"], False)
    served.reload()
    assert served.recommender is models[1]
    assert served.recommender.unavailable == ["3", "5"]
    served.reload()  # there is no third
    assert served.recommender is models[1]
    assert "the old one is served on" in caplog.text


def test_a_key_is_asked_for_and_items_are_unavailable_from_the_start(folder, recommender, forked_server, tmp_path):
    flags = ("--api-key", "secret words", "--unavailable", "3", "--unavailable", "5")
    with forked_server(folder, tmp_path / "log", *flags) as server:
        ask = partial(httpx.post, f"{server.url}/recommend", json={"histories": [["1"]]}, timeout=PATIENCE)
        for headers in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "secret words"}):
            assert (refused := ask(headers=headers)).status_code == 401
            assert refused.json() == {"detail": "give the server's key in the header 'Authorization: Bearer KEY'"}
            for method, path in (("GET", "/items"), ("PUT", "/items/1/availability"), ("GET", "/metrics")):
                assert httpx.request(method, server.url + path, headers=headers, timeout=PATIENCE).status_code == 401
        for path in ("/live", "/health"):
            assert httpx.get(server.url + path, timeout=PATIENCE).status_code == 200
        answer = ask(headers={"Authorization": "Bearer secret words"})
        assert_answers(answer, recommender, [["1"]], exclude=["3", "5"])
        assert "secret" not in (tmp_path / "log").read_text()
        assert server.stop() == 0
