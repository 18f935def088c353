"""What README.md and the guide say of the library: names, files, commands and settings are
there.
"""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

import hpc_bnn
from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.cli.arguments import parse
from hpc_bnn.config import CONFIGS, load_settings
from hpc_bnn.losses import LOSSES
from hpc_bnn.study.study_file import Study
from hpc_bnn.train.run.build import check_choices

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("hpc_bnn/guide/*.md")}
TEXT = "\n".join([README, *GUIDE.values()])


def blocks(language: str) -> list[str]:
    return list(dict.fromkeys(re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)))


COMMANDS = [
    line.partition("#")[0].strip()
    for block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("hpc-bnn ")
]
LINKS = [
    (page, link)
    for page, text in {"README.md": README, **GUIDE}.items()
    for link in re.findall(r"\]\(([^)#:]+)\)", text)
]
BASE = {"digits": "vit_digits.yaml", "series": "mlp_series.yaml", "era5": "demo.yaml"}
PATHS = sorted(set(re.findall(r"(?:hpc_bnn|tests|modules/cmake)/[\w/]+(?:\.\w+)?", TEXT)))


@pytest.mark.parametrize("block", blocks("python"))
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


def test_the_guide_names_each_loss_and_messages_that_there_are() -> None:
    table = GUIDE["losses.md"].partition("## Which one")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row[:60])}
    assert set(LOSSES) <= named
    said = re.findall(r"^\| (`[^|]+`)", GUIDE["troubleshooting.md"], re.MULTILINE)
    code = (*ROOT.glob("hpc_bnn/**/*.py"), *ROOT.glob("jobscripts/parts/*"))
    sources = "".join(path.read_text(encoding="utf-8") for path in code)
    words = re.sub(r'"\s*f?"', "", sources)  # of messages that go on in the next line
    of_open_mpi = {"attempt to run mpirun as root", "not enough slots"}
    for message in {m for cell in said for m in re.findall("`([^`]+)`", cell)} - of_open_mpi:
        parts = re.split(r"\.\.\.|\b\d+\b(?:, \d+)*| nan", message)
        assert all(part.strip() in words for part in parts), message


@pytest.mark.parametrize("block", blocks("yaml"))
def test_settings_that_are_shown_can_be_used(block: str, tmp_path: Path) -> None:
    content = yaml.safe_load(block)
    if "kinds" in content:
        Study.model_validate(content)
        return
    base = yaml.safe_load((CONFIGS / BASE[content["data"]["name"]]).read_text())
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(base | content))
    check_choices(load_settings(tmp_path / "shown.yaml"), "shown.yaml")


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_links_lead_to_files(page: str, link: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "hpc_bnn" / "guide"
    assert (folder / link).is_file()


def test_readme_is_short_and_names_every_page() -> None:
    assert len(README.splitlines()) <= 180
    assert set(GUIDE) <= {Path(link).name for page, link in LINKS if page == "README.md"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_have_the_options_that_are_shown(command: str) -> None:
    assert parse(shlex.split(command)[1:]).command


def test_the_guide_says_what_each_extra_is_for() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (extras,) = [
        ast.literal_eval(keyword.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "extras_require"
    ]
    rows = [line for line in GUIDE["start.md"].splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(told) == sorted(extras)
