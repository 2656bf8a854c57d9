"""`gram serve`: a real server in a process of its own, and its clients over the loopback interface."""

import asyncio
import json
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from fastapi.testclient import TestClient

from gram import cli
from gram.benchmarks.serving import LOST, RIGHT, load, make_requests
from gram.item_cache_gram import ItemCache
from gram.serving.http.app import create_app
from gram.serving.http.batching import Batcher
from gram.serving.http.catalogue import CatalogueSearch
from gram.serving.http.metrics import ServerMetrics
from gram.serving.http.served import Served
from gram.serving.http.settings import ServeSettings
from gram.serving.recommendation import Recommender
from gram.serving.similar import SimilarItems

from .answers import assert_answers
from .waiting import PATIENCE

LIMITS = {"max_histories": 8, "max_history_length": 10, "max_top_k": 20, "max_body_bytes": 2000}
HEAD = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 22\r\n\r\n"
WAITS_LONG = ("--max-wait-ms", "600000", "--batch-size", "8")


@pytest.fixture(scope="module")
def folder(quickstart_run):
    return quickstart_run[0]


@pytest.fixture(scope="module")
def recommender(folder):
    recommender = Recommender.from_pretrained(folder)
    recommender.item_cache = ItemCache.in_memory(recommender.model, recommender.tokenizer)
    return recommender


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "server.log"


@pytest.fixture(scope="module")
def server(folder, log, forked_server):
    flags = [word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with forked_server(folder, log, *flags) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
        yield client


def samples(url):
    """Every sample of `/metrics`, by name and labels."""
    lines = httpx.get(f"{url}/metrics", timeout=PATIENCE).text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def wait_for(url, sample, value):
    deadline = time.monotonic() + PATIENCE
    while samples(url).get(sample) != value:
        assert time.monotonic() < deadline, f"{sample} did not become {value}"
        time.sleep(0.02)


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"top_k": 3}, {"top_k": 20, "exclude_seen": False}, {"num_beams": 5}, {"top_k": 7, "num_beams": 2}),
        *({"exclude": ["4", "6"]}, {"only": ["4", "6", "8", "2"]}, {"only": ["4", "6", "8"], "exclude": ["6"]}),
        *({"only": []}, {"where": ["year>=1980", "genres=Comedy"]}, {"where": ["year<1975"], "exclude": ["3"]}),
        *({"cold_share": 0.5, "cold_below": 12}, {"cold_share": 0.3, "top_k": 7, "where": ["year>=1980"]}),
    ],
)
def test_answers_are_the_recommenders(client, recommender, options):
    histories = [["1", "2", "3"], ["20"], ["5", "5", "7", "9", "11", "13", "2"]]
    response = client.post("/recommend", json={"histories": histories, **options})
    assert_answers(response, recommender, histories, **options)


def test_strangers_are_told_and_get_what_is_popular(client, recommender):
    histories = [["1", "XXX", "2"], [], ["YYY", "ZZZ"]]
    response = client.post("/recommend", json={"histories": histories, "top_k": 4})
    assert_answers(response, recommender, histories, top_k=4)
    assert response.json()["skipped"] == [["XXX"], [], ["YYY", "ZZZ"]]
    assert response.json()["fallback"] == [False, True, True]


def test_an_item_may_be_given_by_its_fields(client, recommender):
    histories = [["1", {"title": "The Long Film", "genres": ["Drama"], "year": 1980}], [{"title": "A Short Film"}, "2"]]
    assert_answers(client.post("/recommend", json={"histories": histories}), recommender, histories)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (
            {"histories": [["1", {"title": " "}]]},
            422,
            "histories[0][1]: an item that is given by its fields has no text",
        ),
        ({"histories": [[{"title": {"a": 1}}]]}, 422, "histories[0][0].title"),
        ({"histories": [["\ud800"]]}, 422, "histories[0][0]: Input should be a valid string"),
        ({"histories": [["X" * 1001]]}, 422, "histories[0][0]: String should have at most 1000 characters"),
        ({"histories": [["1"]], "exclude": ["X" * 900]}, 422, "XXX' is not in the catalogue"),
        ({"histories": [["1"]], "only": ["2", "XXX"]}, 422, "only[1]: item 'XXX' is not in the catalogue of 20 items"),
        ({"histories": [["1"]], "where": ["colour=red"]}, 422, "where[0]: 'colour=red': there is no field 'colour'"),
        ({"histories": []}, 422, "histories: List should have at least 1 item"),
        ({"histories": [["1"] * 11]}, 422, "histories[0]: List should have at most 10 items"),
        ({"histories": [["1"]] * 9}, 422, "histories: List should have at most 8 items"),
        ({"histories": ["1"]}, 422, "histories[0]: Input should be a valid list"),
        ({"histories": [["1", 2]]}, 422, "histories[0][1]: Input should be a valid string"),
        ({"histories": None}, 422, "histories: Input should be a valid list"),
        ({}, 422, "histories: Field required"),
        ([], 422, "the body: Input should be a valid dictionary"),
        ({"histories": [["1"]], "top_k": 0}, 422, "top_k: Input should be greater than or equal to 1"),
        ({"histories": [["1"]], "top_k": 21}, 422, "top_k: Input should be less than or equal to 20"),
        ({"histories": [["1"]], "top_k": "5"}, 422, "top_k: Input should be a valid integer"),
        ({"histories": [["1"]], "top_k": True}, 422, "top_k: Input should be a valid integer"),
        ({"histories": [["1"]], "num_beams": 201}, 422, "num_beams: Input should be less than or equal to 200"),
        ({"histories": [["1"]], "num_beams": 1.5}, 422, "num_beams: Input should be a valid integer"),
        ({"histories": [["1"]], "exclude_seen": 1}, 422, "exclude_seen: Input should be a valid boolean"),
        ({"histories": [["1"]], "timeout": 0}, 422, "timeout: Input should be greater than 0"),
        ({"histories": [["1"]], "timeout": 1e-9}, 504, "no answer within 1e-09 s"),
        ({"histories": [["1"]], "beams": 5}, 422, "beams: Extra inputs are not permitted"),
        (b'{"histories": [["1"', 400, "the body is not JSON: "),
        (b'{"histories": [["1"]], "top_k": 1e999}', 422, "top_k: Input should be a valid integer"),
        (b'{"histories": [["\xff"]]}', 400, "error parsing the body"),
        (b"[" * 2000, 400, "error parsing the body"),
        (b"", 422, "the body: Field required"),
        (b" " * 2001, 413, "the body has more than 2000 bytes"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(client, body, status, says):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert says in response.json()["detail"]
    assert len(response.text) < 500


def test_a_body_that_is_not_announced_is_read_no_further_than_its_limit(client):
    response = client.post("/recommend", content=(b" " * 500 for _ in range(9)))
    assert (response.status_code, list(response.json())) == (413, ["detail"])


def test_a_body_that_is_not_declared_json_is_refused(client):
    response = client.post("/recommend", content=b'{"histories": [["1"]]}', headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/recommend", 405),
        ("GET", "/nothing", 404),
        ("GET", "/items/XXX", 404),
        ("GET", "/items?limit=0", 422),
        ("GET", "/items?limit=101", 422),
        ("GET", "/items?offset=-1", 422),
        ("GET", "/items?limit=x", 422),
        ("GET", f"/items?query={'x' * 201}", 422),
    ],
)
def test_all_errors_have_one_form(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert isinstance(response.json()["detail"], str)


def test_items_are_found_by_words(client, recommender):
    tokenizer = recommender.tokenizer
    every = client.get("/items", params={"limit": 100}).json()
    assert (every["total"], [item["item_id"] for item in every["items"]]) == (20, tokenizer.item_ids)
    page = client.get("/items", params={"limit": 3, "offset": 18}).json()
    assert (page["total"], page["items"]) == (20, every["items"][18:])
    (item,) = client.get("/items", params={"query": "1977  LONG film"}).json()["items"]
    assert (item["item_id"], item["title"]) == ("7", "The Long Film Number 7")
    assert item["lexical_id"] == tokenizer.catalogue["lexical_id"][tokenizer.item_rows["7"]].as_py()
    assert client.get("/items", params={"query": "no such thing"}).json() == {"total": 0, "items": []}


def test_the_item_of_an_id_comes_first_then_titles(model, tokenizer):
    search = CatalogueSearch(tokenizer, model.item_trie)
    item = tokenizer.item_ids[7]
    assert search.find(item.lower()).tolist() == search.find(item).tolist() == [7]
    category = tokenizer.catalogue["text"][0].as_py().split("categories: ")[1].split()[0]
    found = search.find(category[:3].upper()).tolist()
    in_title = [
        any(word.lower().startswith(category[:3].lower()) for word in tokenizer.titles[row].split()) for row in found
    ]
    assert found and in_title == sorted(in_title, reverse=True)
    assert search.find("!?").tolist() == list(range(len(tokenizer.item_ids)))


def test_an_item_is_shown_with_its_similar_items(client, recommender):
    tokenizer = recommender.tokenizer
    row = tokenizer.item_rows["7"]
    item = client.get("/items/7").json()
    assert item["text"] == tokenizer.catalogue["text"][row].as_py()
    similar = tokenizer.catalogue["similar_items"][row].as_py()
    assert similar and [other["item_id"] for other in item["similar_items"]] == similar
    assert item["similar_items"][0]["title"] == tokenizer.titles[tokenizer.item_rows[similar[0]]]


@pytest.mark.parametrize("by", ["text", "users", "both"])
def test_similar_items_are_the_librarys(client, recommender, by):
    found = client.get("/items/5/similar", params={"by": by, "limit": 4}).json()["items"]
    expected = SimilarItems(recommender).find("5", 4, by)
    assert [item["item_id"] for item in found] == [item.item_id for item in expected]
    assert client.get("/items/XXX/similar").status_code == 404
    assert client.get("/items/5/similar", params={"by": "colour"}).status_code == 422


def test_health_says_what_is_served(client, folder):
    health = client.get("/health").json()
    assert (health["ready"], health["model"], health["num_items"], health["max_history"]) == (True, folder.name, 20, 4)
    assert health["device"] == "cpu"
    assert set(health["versions"]) == {"gram", "python", "torch", "transformers"}


def test_metrics_count_requests(server, client):
    before = samples(server.url)
    for _ in range(3):
        client.post("/recommend", json={"histories": [["1"], ["2"]]})
    client.get("/items/XXX")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in response.text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-+.e\d]+', line)
    after = samples(server.url)

    def grown(name):
        return after[name] - before.get(name, 0)

    assert grown('gram_requests_total{path="/recommend",status="200"}') == 3
    assert grown('gram_requests_total{path="/items/{item_id}",status="404"}') == 1
    assert grown('gram_request_seconds_count{path="/recommend"}') == 3
    assert grown('gram_request_seconds_bucket{le="+Inf",path="/recommend"}') == 3
    assert grown("gram_users_total") == grown("gram_batch_users_sum") == 6
    assert after["gram_waiting_users"] == 0
    assert after["gram_requests_in_flight"] == 1
    buckets = [value for name, value in after.items() if name.startswith("gram_search_seconds_bucket")]
    assert len(buckets) > 2 and buckets == sorted(buckets)


def test_the_openapi_page_is_complete_and_its_example_works(client):
    assert client.get("/docs").status_code == 200
    described = client.get("/openapi.json").json()
    items = {"/items", "/items/{item_id}", "/items/{item_id}/availability", "/items/{item_id}/similar"}
    paths = {"/recommend", *items, "/health", "/live", "/metrics"}
    assert set(described["paths"]) == paths
    for path in described["paths"].values():
        for operation in path.values():
            assert operation["description"] and operation["tags"]
            for status, response in operation["responses"].items():
                if status not in ("200", "503"):
                    assert response["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}
    schemas = described["components"]["schemas"]
    assert schemas["RecommendRequest"]["properties"]["top_k"]["maximum"] == LIMITS["max_top_k"]
    assert schemas["Recommendations"]["examples"] and schemas["Error"]["properties"]["detail"]["examples"]
    (example,) = schemas["RecommendRequest"]["examples"]
    assert client.post("/recommend", json=example).status_code == 200


def test_many_clients_get_what_each_gets_alone(server, recommender):
    draw = [[str(1 + (user * step) % 20) for step in range(1, 2 + user % 8)] for user in range(40)]
    requests = make_requests(recommender, draw, 60, seed=0)
    outcome = asyncio.run(load(server, requests, clients=200, seconds=1))
    assert outcome.verdicts[RIGHT] >= 200
    assert outcome.verdicts[LOST] == 0
    assert set(outcome.verdicts) == {RIGHT}


def test_a_request_is_a_line_of_the_log_without_its_history(server, log):
    address = "127.0.0.2"  # other tests' clients, whose late lines may come between these, have 127.0.0.1
    with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=PATIENCE) as client:
        client.post(f"{server.url}/recommend", json={"histories": [["1"], ["2"]]})
        client.get(f"{server.url}/items/a%0Ab")
    lines, deadline = [], time.monotonic() + PATIENCE
    while len(lines) < 2 and time.monotonic() < deadline:  # a line is written once its answer has been sent
        complete = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        lines = [line for line in map(json.loads, complete) if line.get("client") == address]
    recommended, item = lines
    assert recommended.items() >= {"level": "info", "method": "POST", "path": "/recommend", "status": 200}.items()
    assert set(recommended) == {"time", "level", "method", "path", "status", "ms", "client", "users"}
    assert recommended["users"] == 2
    assert item.items() >= {"level": "info", "path": "/items/a\nb", "status": 404}.items()


def test_a_full_queue_refuses_and_a_stopped_server_answers_those_who_wait(folder, recommender, forked_server, tmp_path):
    histories = [["1", "2"], ["3"], ["4", "5", "6"], ["7"]]
    flags = (*WAITS_LONG, "--max-pending", "4", "--max-histories", "4", "--request-timeout", "600")
    with forked_server(folder, tmp_path / "log", *flags) as server, ThreadPoolExecutor(4) as threads:
        url = f"{server.url}/recommend"
        waiting = [
            threads.submit(httpx.post, url, json={"histories": asked, "top_k": top_k}, timeout=PATIENCE)
            for asked, top_k in ((histories[:2], 3), (histories[2:3], 8), (histories[3:], 5))
        ]
        wait_for(server.url, "gram_waiting_users", 4)
        refused = httpx.post(url, json={"histories": [["8"]]}, timeout=PATIENCE)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "too many users are waiting" in refused.json()["detail"]
        assert httpx.get(f"{server.url}/health", timeout=PATIENCE).json()["waiting_users"] == 4
        server.process.send_signal(signal.SIGTERM)
        answers = [future.result() for future in waiting]
        for answer, asked, top_k in zip(
            answers, (histories[:2], histories[2:3], histories[3:]), (3, 8, 5), strict=True
        ):
            assert_answers(answer, recommender, asked, top_k=top_k)
        assert server.process.wait(timeout=PATIENCE) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_clients_who_never_end_keep_nobody_out(folder, recommender, forked_server, tmp_path):
    most, flags = 20, ("--max-pending", "20", "--max-histories", "4")
    before = "from gram.serving.http import server; server.HEAD_SECONDS = 3\n"  # in place of 10
    with (
        forked_server(folder, tmp_path / "log", *flags, before=before) as server,
        ExitStack() as clients,
    ):

        def connect(sent):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE))
            client.sendall(sent)
            return client

        idle = [connect(b""), connect(b"GET /health HTT")]
        slow = [connect(HEAD + b'{"his') for _ in range(most)]
        wait_for(server.url, "gram_requests_in_flight", most + 1)  # this question among them
        answer = httpx.post(f"{server.url}/recommend", json={"histories": [["1", "2"]]}, timeout=PATIENCE)
        assert_answers(answer, recommender, [["1", "2"]])
        (given_up,), _, _ = select.select(slow, [], [], 60)
        assert given_up.recv(1000).startswith(b"HTTP/1.1 408 ")
        slow.remove(given_up)
        slow[0].sendall(b'tories": [["1"]]}')
        assert slow[0].recv(1000).startswith(b"HTTP/1.1 200 ")
        assert [client.recv(1000) for client in idle] == [b"", b""]  # cut


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("with_cache", [False, True])
def test_a_server_survives_its_terminal_and_its_files(folder, recommender, forked_server, tmp_path, with_cache):
    served = shutil.copytree(folder, tmp_path / "served")
    if with_cache:
        recommender.model.encode_items(recommender.tokenizer, served / "item_encodings", progress=False)
    with forked_server(served, tmp_path / "log") as server:
        server.process.send_signal(signal.SIGHUP)
        for path in served.rglob("*"):
            if path.is_file():
                path.write_bytes(b"")  # in place, as `cp` writes over a file
        histories = [["1", "2", "3"], ["20"]]
        answer = httpx.post(f"{server.url}/recommend", json={"histories": histories}, timeout=PATIENCE)
        assert_answers(answer, recommender, histories)
        assert server.stop() == 0


def test_requests_of_one_kind_share_a_search(folder, recommender, forked_server, tmp_path):
    asked = [([[str(user)]], 3 + user) for user in range(1, 9)]
    with forked_server(folder, tmp_path / "log", *WAITS_LONG) as server, ThreadPoolExecutor(9) as threads:
        url = f"{server.url}/recommend"
        other = threads.submit(
            httpx.post, url, json={"histories": [["1"]], "num_beams": 4, "top_k": 2}, timeout=PATIENCE
        )
        wait_for(server.url, "gram_waiting_users", 1)
        futures = [
            threads.submit(httpx.post, url, json={"histories": histories, "top_k": top_k}, timeout=PATIENCE)
            for histories, top_k in asked
        ]
        wait_for(server.url, "gram_waiting_users", 9)  # the other kind has waited longest, and is not full
        assert samples(server.url)["gram_batch_users_count"] == 0
        assert server.stop(signal.SIGINT) == 0
        assert_answers(other.result(), recommender, [["1"]], num_beams=4, top_k=2)
        for future, (histories, top_k) in zip(futures, asked, strict=True):
            assert_answers(future.result(), recommender, histories, top_k=top_k)


def test_who_waits_too_long_or_has_gone_leaves_the_queue(folder, forked_server, tmp_path):
    with forked_server(folder, tmp_path / "log", *WAITS_LONG, "--request-timeout", "2") as server:
        late = httpx.post(f"{server.url}/recommend", json={"histories": [["1"]]}, timeout=PATIENCE)
        assert (late.status_code, late.json()) == (504, {"detail": "no answer within 2 s"})
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as slow:
            slow.sendall(HEAD + b'{"his')
            assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as gone:
            gone.sendall(HEAD + b'{"histories": [["1"]]}')
            wait_for(server.url, "gram_waiting_users", 1)
        wait_for(server.url, 'gram_requests_total{path="/recommend",status="499"}', 1)
        wait_for(server.url, "gram_waiting_users", 0)
        assert server.stop() == 0


def test_a_failed_search_is_an_error_without_traceback_and_the_next_is_answered(recommender, caplog):
    class Failing(Recommender):
        def recommend(self, histories, top_k, **search):
            if ["13"] in histories:
                raise RuntimeError("out of luck")
            if ["14"] in histories:
                raise ValueError("the scores are not finite")
            return super().recommend(histories, top_k, **search)

    failing = Failing(recommender.model, recommender.tokenizer, item_cache=recommender.item_cache)
    with TestClient(create_app(Batcher(Served(lambda: failing), ServeSettings(), ServerMetrics()), "films")) as client:
        failed = client.post("/recommend", json={"histories": [["13"]]})
        assert (failed.status_code, failed.json()) == (500, {"detail": "the search failed"})
        assert "out of luck" in caplog.text
        failed = client.post("/recommend", json={"histories": [["14"]]})
        assert (failed.status_code, failed.json()["detail"]) == (500, "the search failed: the scores are not finite")
        assert_answers(client.post("/recommend", json={"histories": [["1"]]}), recommender, [["1"]])


def test_a_port_in_use_is_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "gram.cli", "serve", str(folder), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"gram: error: cannot listen on port {port} of 127.0.0.1: Address already in use; ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--port", "70000"), "--port: '70000' is no whole number"),
        (("--host", "..."), "cannot listen on port 8000 of ...: "),
        (("--batch-size", "0"), "batch_size is 0; it must be a whole number, at least 1"),
        (("--max-wait-ms", "-1"), "max_wait_ms is -1.0; it must be a number, at least 0"),
        (("--request-timeout", "nan"), "request_timeout is nan"),
        (("--max-pending", "4"), "max_histories is 64, more than max_pending, 4"),
    ],
)
def test_wrong_flags_are_named(capsys, flags, message):
    assert cli.main(["serve", "MODEL", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_without_the_extra_it_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "gram.serving.http.server", raising=False)  # where other tests have imported it
    assert cli.main(["serve", "MODEL"]) == 2
    error = 'gram: error: serving needs uvicorn, which is not installed: run pip install "gram-recommender[serve]"\n'
    assert capsys.readouterr().err == error
