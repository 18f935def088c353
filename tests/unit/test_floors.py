"""The shape of the code: imports go down only, one file per library, short and documented files."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import hpc_bnn

PACKAGE = Path(hpc_bnn.__file__).parent

FLOORS = {
    "config": 0,
    "bayes": 0,
    "losses": 0,
    "models": 0,
    "data": 1,
    "verify": 1,
    "parallel": 2,
    "train": 3,
    "study": 4,
    "arguments": 5,
    "cli": 5,
}
MAY_IMPORT_EVERYTHING = {"__init__.py", "__main__.py", "cli.py", "arguments.py"}
ONLY_IN = {
    "mpi4py": ("parallel/comms.py",),
    "horovod": ("parallel/engine.py",),
    "netCDF4": ("data/", "verify/"),
}
VAGUE = {"utils.py", "helpers.py", "common.py", "misc.py"}
MOST_LINES = 400

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
every_file = pytest.mark.parametrize("file", FILES)


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def part_of(file: str) -> str:
    """Return the sub-package or module that stands on a floor: ``train`` of ``train/step.py``."""
    return file.partition("/")[0].removesuffix(".py")


def imports(file: str) -> Iterator[str]:
    """Yield the full name of every module that is imported anywhere in a file."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: line {node.lineno}: a relative import"
            if node.module == "hpc_bnn":  # from hpc_bnn import losses
                yield from (f"hpc_bnn.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def test_the_package_is_there() -> None:
    assert {"cli.py", "config/load.py", "parallel/comms.py", "train/step.py"} <= set(FILES)


@every_file
def test_every_part_stands_on_a_floor(file: str) -> None:
    assert file in MAY_IMPORT_EVERYTHING or part_of(file) in FLOORS


@every_file
def test_imports_go_down_only(file: str) -> None:
    if file in MAY_IMPORT_EVERYTHING:
        return
    here = part_of(file)
    for name in imports(file):
        root, _, rest = name.partition(".")
        if root != "hpc_bnn" or not rest:
            continue
        there = rest.partition(".")[0]
        assert there == here or FLOORS[there] < FLOORS[here], (
            f"{file} on floor {FLOORS[here]} imports {name} on floor {FLOORS[there]}"
        )


@every_file
def test_the_package_itself_gives_its_version_only(file: str) -> None:
    """``import hpc_bnn`` below the top would reach up through the public names."""
    if file in MAY_IMPORT_EVERYTHING:
        return
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "hpc_bnn" or node.attr == "__version__", (
                f"{file}: line {node.lineno}: hpc_bnn.{node.attr}"
            )


@every_file
def test_mpi_horovod_and_netcdf_have_one_place_each(file: str) -> None:
    for name in imports(file):
        for library, places in ONLY_IN.items():
            if name == library or name.startswith(f"{library}."):
                assert file.startswith(places), f"{file} imports {name}"


@every_file
def test_no_star_imports(file: str) -> None:
    for node in ast.walk(tree(file)):
        assert not (isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names))


@every_file
def test_only_the_command_line_prints(file: str) -> None:
    if file == "cli.py":
        return
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{file}: line {node.lineno} prints"


@every_file
def test_files_are_short_and_named_after_what_they_hold(file: str) -> None:
    lines = (PACKAGE / file).read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{file}: {lines} lines, split it"
    assert Path(file).name not in VAGUE


@every_file
def test_ascii_only(file: str) -> None:
    lines = (PACKAGE / file).read_bytes().split(b"\n")
    assert [n for n, line in enumerate(lines, start=1) if not line.isascii()] == []


@every_file
def test_every_module_and_every_public_name_has_a_docstring(file: str) -> None:
    module = tree(file)
    assert ast.get_docstring(module), f"{file} has no docstring"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{file}: {node.name} has no docstring"


def test_unit_tests_have_names_of_their_own() -> None:
    """pytest imports them by file name: two of one name cannot both be collected."""
    tests = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted(tests) == sorted(set(tests))
