"""What README.md and the guide say of the library: names, files and commands are there."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import hpc_bnn
from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.cli.arguments import parse

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
GUIDE = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("hpc_bnn/guide/*.md")}
COMMANDS = [
    line.partition("#")[0].strip()
    for page in (TEXT, *GUIDE.values())
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("hpc-bnn ")
]
PATHS = sorted(set(re.findall(r"(?:hpc_bnn|tests|modules/cmake)/[\w/]+(?:\.\w+)?", TEXT)))


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_imported_and_used_of_the_package_is_there(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
    for chain in re.findall(r"\bhb((?:\.\w+)+)", block):
        part: object = importlib.import_module("hpc_bnn")
        for name in chain.strip(".").split("."):
            part = getattr(part, name)


@pytest.mark.parametrize("path", PATHS)
def test_files_that_are_named_are_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("page", GUIDE)
def test_public_names_of_the_guide_are_there(page: str) -> None:
    names = re.findall(r"\bhb\.(\w+)", GUIDE[page])
    assert [name for name in names if not hasattr(hpc_bnn, name)] == []


def test_the_guide_has_a_section_for_each_posterior() -> None:
    page = GUIDE["posteriors.md"]
    headings = re.findall(r"^### ([a-z_0-9, ]+)$", page, re.MULTILINE)
    assert sorted(", ".join(headings).split(", ")) == sorted(POSTERIORS)
    classes = re.findall(r"`hb\.(\w+)`", page.partition("## Which one")[0])
    assert sorted(classes) == sorted(method.__name__ for method in POSTERIORS.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_options_that_are_shown(command: str) -> None:
    assert parse(shlex.split(command)[1:]).command
