"""Hooks of the site: files beside `docs/` become pages, links to them lead there, and docstrings are adapted."""

import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md", "hub/metrics/ranking_metrics/README.md")


def on_files(files, config):
    """Add the pages, and one for each script of the examples, which shows it."""
    for page in PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    for script in sorted((ROOT / "examples").glob("*.py")):
        code = f"# {script.name}\n\n```python\n{script.read_text(encoding='utf-8')}```\n"
        files.append(File.generated(config, f"examples/{script.stem}.md", content=code))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to these files, as the site has them."""
    if page.file.src_uri == "examples/README.md":
        return re.sub(r"\]\((\w+)\.py\)", r"](\1.md)", markdown)
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\]\(\.\./(examples/\w+)\.py\)", r"](\1.md)", markdown).replace("](../", "](")


def _type(found: re.Match) -> str:
    kind, default = found.groups()
    return f"({kind}, optional):" if default is None else f"({kind}, default {default}):"


class Docstrings(griffe.Extension):
    """What is Markdown for transformers' own documentation, as this site reads it."""

    def on_object(self, *, obj, **kwargs):
        """Examples are code, and names in brackets are no links."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            text = re.sub(r"\(`(\w+)`, \*optional\*(?:, defaults? to `?(\w+|\"\w+\")`?)?\):", _type, text)
            obj.docstring.value = re.sub(r"\[`~?(?:transformers\.)?([\w.]+)`\]", r"`\1`", text)
