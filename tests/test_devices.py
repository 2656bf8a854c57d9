"""On an accelerator, which a machine without one can only pretend to have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def close(one, other):
    """Whether two JSON values are the same but for rounding."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == (pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(one, float) else other)


def test_an_accelerator_gives_what_the_cpu_gives(model_folder, tmp_path):
    command = [sys.executable, "-m", "tests.on_other_device", str(model_folder), str(tmp_path / "encodings")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected, found = json.loads(done.stdout.splitlines()[-1])
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert close(values, found[name]), name
