"""What the guide shows ships with the package: pictures of it, each once, and small."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hpc_bnn"
PICTURES = sorted((PACKAGE / "guide" / "images").iterdir())
PAGES = [ROOT / "README.md", *sorted((PACKAGE / "guide").glob("*.md"))]
MOST_BYTES = 100_000


def shown(page: Path) -> set[Path]:
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in links}


def test_every_picture_of_a_page_is_in_the_package() -> None:
    held = {path.resolve() for path in PICTURES}
    assert {page.name: shown(page) - held for page in PAGES if shown(page) - held} == {}


def test_every_picture_is_shown_and_there_once() -> None:
    used = {path for page in PAGES for path in shown(page)}
    assert [path.name for path in PICTURES if path.resolve() not in used] == []
    contents = [path.read_bytes() for path in PICTURES]
    assert len(set(contents)) == len(contents)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_pictures_are_small(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert path.stat().st_size <= MOST_BYTES


def test_all_files_of_the_guide_are_packaged() -> None:
    """And other data files, by the patterns of setup.py, which is not run for it."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (data,) = (
        ast.literal_eval(word.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "package_data"
    )
    packaged = {path for pattern in data["hpc_bnn"] for path in PACKAGE.glob(pattern)}
    files = {path for path in (PACKAGE / "guide").rglob("*") if path.is_file()}
    assert files - packaged == set()
    assert PACKAGE / "verify" / "coastlines.npz" in packaged
    page = PACKAGE / "study" / "report" / "page.html"
    assert {page.with_suffix(kind) for kind in (".html", ".css", ".js")} <= packaged
