"""The wheel: what ships in it, and that it finds its files from anywhere, without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [*PIP, "wheel", str(REPOSITORY), "--no-deps", "--wheel-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stdout + done.stderr:
        pytest.skip("the build backend (hatchling) cannot be fetched here")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("rlaif-*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_data_file(wheel):
    shipped = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "rlaif").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    for folder in ("constitutions", "prompts"):
        files = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
        assert files
        wanted |= {f"rlaif/{path.relative_to(REPOSITORY)}" for path in files}
    assert wanted <= shipped
    assert {name.partition("/")[0] for name in shipped if ".dist-info" not in name} == {"rlaif"}
    assert any(name.endswith("licenses/LICENSE") for name in shipped)


CODE = """
import rlaif
from rlaif.config import load_recipe
from rlaif.constitution import load_constitution
from rlaif.pages.kit import __file__ as kit
from rlaif.feedback.prompts import read_prompts
from rlaif.resources import resolve
from rlaif.templates import load_template
from pathlib import Path
print(Path(rlaif.__file__).parent)
assert load_constitution("harmlessness").principles
assert load_template("compare").labels
assert read_prompts(load_recipe("quickstart").prompts).train
assert resolve("prompts/sets", "everyday").is_file()
assert (Path(kit).parent / "page.html.jinja").is_file() and (Path(kit).parent / "kit.html.jinja").is_file()
"""


def test_an_installed_wheel_finds_its_files(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    # First on the path, so that it wins over a checkout installed in this environment.
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(site / "rlaif")
    assert (site / "bin" / "rlaif").is_file()
