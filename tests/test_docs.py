"""The documentation: every block of its pages runs or says why not, the site builds, and what it quotes is true."""

import ast
import os
import re
import subprocess
import sys

import pytest
import yaml

import gram

from .reader import NOT_RUN, ROOT, RUNS_UNTIL_STOPPED, Reader, blocks_of, train_films

DOCS = ROOT / "docs"
BLOCKS = [block for page in sorted(DOCS.glob("*.md")) for block in blocks_of(page)]
NO_PROGRAMS = {"text": str, "json": yaml.safe_load, "yaml": yaml.safe_load}  # and what reads them
ROOMS_WITHOUT_MESSAGES = {"tests", "benchmarks", "docs", "examples", "build", "dist", "site", "runs"}


@pytest.fixture(scope="module")
def reader(forks, loopback_hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    reader = Reader(folder, train_films(folder), forks, loopback_hub.token, starts_programs=False)
    yield reader
    reader.leave()


@pytest.mark.parametrize("page", sorted(page.name for page in DOCS.glob("*.md")))
def test_every_block_runs_or_says_why_not(page):
    blocks = [block for block in BLOCKS if block.page == page]
    assert (DOCS / page).read_text(encoding="utf-8").count("```") == 2 * len(blocks)
    for block in blocks:
        assert block.language in {"bash", "python", *NO_PROGRAMS}, block
        assert block.remark in ("", RUNS_UNTIL_STOPPED) or block.remark.startswith(NOT_RUN), block
        NO_PROGRAMS.get(block.language, str)(block.code)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.is_run], ids=str)
def test_block(reader, block):
    reader.follow(block)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a network; a broken link or reference is an error."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = {name: "http://127.0.0.1:9" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    environment = {**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_reached_from_the_first(site):
    reached = set(re.findall(r'href="([^"#:]+)/"', (site / "index.html").read_text(encoding="utf-8")))
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or page.stem in reached, f"{page.name} is in no list of pages"
    assert {"CHANGELOG", "CONTRIBUTING", "examples"} <= reached


def test_what_the_package_exports_is_explained(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in gram.__all__:
        place = f"{getattr(gram, name).__module__}.{name}"
        assert f'id="{place}"' in text, f"docs/api.md has no line `::: {place}`"
    assert "&gt;&gt;&gt;" in text


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?([^\" >]+)", page.read_text(encoding="utf-8")
        )
        assert loaded
        assert not [address for address in loaded if "://" in address], page


def messages():
    """Every text in the code, a placeholder for what is filled in."""
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ROOMS_WITHOUT_MESSAGES or parts[0].startswith("."):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_are_those_of_the_code():
    """What the page on errors quotes stands in the code; three points are what the message names."""
    known = "\n".join(set(messages()))
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| (`+)(.+?)\1 \|", text, flags=re.MULTILINE)
    assert len(quoted) > 30
    for _, message in quoted:
        parts = [re.escape(part.strip()) for part in message.split("...")]
        assert re.search(".*".join(parts), known), message
