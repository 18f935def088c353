"""What README.md says of the library: the names it imports and the files it names are there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
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
