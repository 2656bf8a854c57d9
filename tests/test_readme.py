"""The README: its blocks, run as they stand there and in their order, its figures, its length."""

import json
import re

import numpy as np
import pytest

from .reader import ROOT, Reader, blocks_of, train_films

README = ROOT / "README.md"
QUICKSTART = "pip install -c constraints.txt -e . && gram quickstart"
TESTS = 'pip install -c constraints.txt -e ".[test]" && pytest'
BLOCKS = blocks_of(README)
DATA = ("scientific-cpu", "beauty-cpu")
ROWS = {"GRAM + all": "with-all", "SASRec": "sasrec", "item-kNN": "item-knn", "transition graph": "transition-graph"}


@pytest.fixture(scope="module")
def reader(forks, loopback_hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    reader = Reader(folder, train_films(folder), forks, loopback_hub.token, starts_programs=True)
    yield reader
    reader.leave()


def test_the_two_commands():
    """They are what a fresh machine runs first, and what CI runs."""
    commands = [block.code for block in BLOCKS]
    assert commands[0] == QUICKSTART
    assert TESTS in commands
    assert TESTS in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_block_is_run():
    assert {block.language for block in BLOCKS} == {"bash", "python"}
    assert all(block.is_run for block in BLOCKS)
    assert README.read_text(encoding="utf-8").count("```") == 2 * len(BLOCKS)


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.code not in (QUICKSTART, TESTS)], ids=str)
def test_block(reader, block):
    reader.follow(block)


def test_results_are_those_of_the_files():
    folder = ROOT / "docs" / "results"
    results = [json.loads((folder / name / "results.json").read_text())["rows"] for name in DATA]
    models = json.loads((folder / "quickstart" / "ties.json").read_text())["ndcg@10"]
    of_films = {name.lower(): values for name, values in models.items()}
    text = README.read_text(encoding="utf-8").split("## Results")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w[^|]+) \| (.+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 6
    for name, figures in rows:
        row = ROWS.get(name, name.lower())
        found = [of_films.get(row, {}).get(protocol) for protocol in ("all_items", "unseen_items")]
        found = [np.mean(values) if values else None for values in found]
        found += [result[row]["metrics"]["all_items"]["ndcg@10"]["mean"] for result in results]
        assert figures == " | ".join(f"{mean:.4f}" if mean else "-" for mean in found), name


def test_links_and_pictures_are_there():
    for page in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
