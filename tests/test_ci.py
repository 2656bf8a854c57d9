"""What CI runs: the README's command, and no test of a page skips where there is a browser."""

import os
import subprocess
import sys

from .conftest import ROOT


def test_ci_runs_the_command_of_the_readme():
    *_, command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert command == 'pip install -c constraints.txt -e ".[test]" && pytest'
    assert f"```bash\n{command}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pages_may_not_skip_where_chromium_is_there(tmp_path):
    (tmp_path / "playwright.py").write_text("raise ModuleNotFoundError(__name__)\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/test_report.py"]
    environment = {**os.environ, "GRAM_CHROMIUM": "chromium", "PYTHONPATH": str(tmp_path)}
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([*command, "-k", "one_item"], **options)
    assert done.returncode == 1
    assert "must not skip where GRAM_CHROMIUM is given: Skipped: playwright is not installed" in done.stdout
