"""What `pip install gram-recommender` gives, from a wheel and from a source distribution, outside the repository."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_INSTALLED = {"tests", "benchmarks", "examples", "docs"}
IGNORED = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs", "shared", "site")
DATA_SUFFIXES = {".parquet", ".csv", ".tsv", ".inter", ".item", ".safetensors", ".npy", ".npz", ".zip", ".gz", ".png"}

IMPORT_ALL = """
import importlib, json, pkgutil
from importlib.metadata import version
import gram
names = [module.name for module in pkgutil.walk_packages(gram.__path__, "gram.")]
for name in names:
    importlib.import_module(name)
from gram.reproduction.quickstart import RECIPE
from gram.common.settings import config_file
assert config_file("beauty").is_file() and RECIPE.is_file()
assert version("gram-recommender") == gram.__version__
print(json.dumps({"file": gram.__file__, "modules": names}))
"""


def run(*command, cwd, environment=None):
    """Standard output of a command that ends well; what it would import from this checkout is out of its reach."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the checkout: a build leaves folders behind."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("sources") / "checkout", ignore=IGNORED)


@pytest.fixture(scope="module")
def distributions(sources, tmp_path_factory) -> dict[str, Path]:
    """The source distribution, the wheel that was built from it, and the wheel that the checkout builds."""
    folder, build = tmp_path_factory.mktemp("dist"), [sys.executable, "-m", "build", "--no-isolation"]
    run(*build, "--outdir", folder / "sdist", sources, cwd=folder)
    run(*build, "--wheel", "--outdir", folder / "wheel", sources, cwd=folder)
    (sdist,) = (folder / "sdist").glob("*.tar.gz")
    (of_sdist,) = (folder / "sdist").glob("*.whl")
    (wheel,) = (folder / "wheel").glob("*.whl")
    return {"sdist": sdist, "wheel of sdist": of_sdist, "wheel": wheel}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def environment(request, distributions, tmp_path_factory) -> Path:
    """A fresh environment with nothing but the distribution, and a path to the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    (Path(site_packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(*pip, *options, distributions[request.param], cwd=folder)
    return folder


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_wheel_holds_the_package_and_nothing_else(distributions, sources):
    files = contents(distributions["wheel"])
    paths = [Path(name) for name in files]
    assert {path.parts[0].split("-")[0] for path in paths} == {"gram", "gram_recommender"}
    assert not [path for path in paths if NOT_INSTALLED & set(path.parts) or path.name.startswith("test_")]
    assert not [path for path in paths if path.suffix in DATA_SUFFIXES]
    (licence,) = (content for name, content in files.items() if name.endswith("licenses/LICENSE"))
    assert licence == (ROOT / "LICENSE").read_bytes()
    modules = {path.relative_to(sources) for path in sources.rglob("*.py")}
    expected = {f"gram/{path}" for path in modules if path.parts[0] not in NOT_INSTALLED | {"build"}}
    assert expected == {name for name in files if name.endswith(".py")}


def test_source_distribution_builds_the_same_wheel(distributions):
    with tarfile.open(distributions["sdist"]) as archive:
        top_level = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "setup.cfg"} <= top_level
    assert not NOT_INSTALLED & top_level
    assert contents(distributions["wheel of sdist"]) == contents(distributions["wheel"])


def test_dependencies_are_bounded_below_and_pinned_for_tests():
    """Every requirement of setup.cfg has a lower bound, and `constraints.txt` says what it was tested with."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    for requirements in (setup["options"]["install_requires"], *setup["options.extras_require"].values()):
        for requirement in requirements.split():
            name = requirement.split(">=")[0].split("[")[0]
            assert name == "gram-recommender" or (">=" in requirement and name in pinned), requirement


def test_the_default_install_is_the_core_and_what_trains():
    """And endpoints and Spaces get what the core asks for; `all` leaves out torchao, which writes at every start."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = {name: set(of.split()) for name, of in setup["options.extras_require"].items()}
    default = set(setup["options"]["install_requires"].split())
    assert extras["train"] < default
    core = default - extras["train"]
    for folder in ("hub", "hub/space"):
        lines = (ROOT / folder / "requirements.txt").read_text().splitlines()
        asked = {line for line in lines if line[0] not in "#-"}
        assert {"pyarrow>=17", "torch>=2.6", "transformers>=5.10,<6"} <= asked <= core
    (whole,) = extras["all"]
    others = {"all", "docs", "quantization", "test", "train"}
    assert set(whole.split("[")[1].rstrip("]").split(",")) == extras.keys() - others
    assert "gram-recommender[all,docs]" in extras["test"]


def test_installed_package_works_outside_the_repository(environment, tmp_path):
    gram, python = environment / "bin" / "gram", environment / "bin" / "python"
    commands = run(gram, "--help", cwd=tmp_path)
    assert "quickstart" in commands
    assert "--output-dir" in run(gram, "quickstart", "--help", cwd=tmp_path)
    found = json.loads(run(python, "-c", IMPORT_ALL, cwd=tmp_path).splitlines()[-1])
    assert Path(found["file"]).is_relative_to(environment)
    assert {"gram.modeling_gram", "gram.hub", "gram.data.sources", "gram.train_accelerate"} <= set(found["modules"])


@pytest.mark.parametrize("environment", ["wheel"], indirect=True)
def test_installed_package_trains_and_recommends(environment, data_folder, tmp_path):
    gram, python = environment / "bin" / "gram", environment / "bin" / "python"
    shape = ["--d-model=16", "--d-kv=8", "--d-ff=16", "--num-layers=1", "--num-heads=2"]
    brief = ["--epochs=1", "--max-history=4", "--max-passage-length=32", "--vocab-size=300", "--validation-beams=5"]
    launch = [python, "-m", "accelerate.commands.launch", "--num_processes=1", "-m", "gram.train_accelerate"]
    places = ["--config", "quickstart", "--data", data_folder, "--output-dir", "model"]
    run(*launch, *places, *shape, *brief, cwd=tmp_path, environment={"ACCELERATE_USE_CPU": "true"})
    shown = run(gram, "recommend", "model", "--history", "B0001", "--top-k", 3, cwd=tmp_path)
    assert len(shown.splitlines()) == 4
