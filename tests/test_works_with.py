"""docs/works_with.md: what is called tested there is."""

import copy
import re
from pathlib import Path

import pytest

from gram import GramForConditionalGeneration

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "works_with.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_is_there():
    named = set(re.findall(r"`(\w+\.py)::(\w+)`", PAGE))
    assert len(named) == len(set(re.findall(r"`test[^`]*::[^`]*`", PAGE))) > 15
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_every_cell_is_tested_refused_untested_or_needless():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    for row in rows[2:]:
        for cell in row[1:]:
            assert cell.startswith(("untested", "not asked")) or "::" in cell or not cell, row


@pytest.mark.parametrize("kernels", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_is_refused(model, kernels):
    with pytest.raises((ValueError, ImportError), match=r"(?i)flash"):
        GramForConditionalGeneration._from_config(copy.deepcopy(model.config), attn_implementation=kernels)
