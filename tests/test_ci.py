"""What CI runs: the README's command, and no test of a page skips where there is a browser."""

import os
import subprocess
import sys

import pytest

from .conftest import ROOT


def test_ci_runs_the_command_of_the_readme():
    *_, command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert command == 'pip install -c constraints.txt -e ".[test]" && pytest'
    assert f"```bash\n{command}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("chromium", "code"), [({}, 0), ({"GRAM_CHROMIUM": "/usr/bin/chromium"}, 1)])
def test_pages_may_not_skip_where_chromium_is_there(tmp_path, chromium, code):
    (tmp_path / "playwright.py").write_text("raise ModuleNotFoundError(__name__)\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "GRAM_CHROMIUM"}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/test_report.py"]
    done = subprocess.run(
        [*command, "-k", "one_item"],
        cwd=ROOT,
        env={**environment, **chromium, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout
    assert ("must not skip where GRAM_CHROMIUM is given" in done.stdout) is bool(chromium)
