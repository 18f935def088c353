"""The shape of the code: imports go down only, one file per library, short and documented files.

Every check looks at all files and names each that fails.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import hpc_bnn
from hpc_bnn.data import DATA_SETS

Node = TypeVar("Node", ast.Import, ast.ImportFrom, ast.Attribute, ast.Call)
PACKAGE = Path(hpc_bnn.__file__).parent

FLOORS = {
    "compiled": -1,
    "files": -1,
    "group": -1,
    "lock": -1,
    "progress": -1,
    "spelling": -1,
    "config": 0,
    "bayes": 0,
    "losses": 0,
    "models": 0,
    "data": 1,
    "fields": 2,
    "verify": 0,
    "parallel": 2,
    "train": 3,
    "study": 4,
    "cli": 5,
}
MAY_IMPORT_EVERYTHING = {"__init__.py", "__main__.py"}
ONLY_IN = {
    "mpi4py": ("parallel/mpi.py",),
    "horovod": ("parallel/horovod.py",),
    "torch.distributed": ("parallel/torch_dist.py",),
    "netCDF4": ("fields/",),
    "zarr": ("fields/ingest/",),
    "eccodes": ("fields/ingest/",),
}
VAGUE = {"utils.py", "helpers.py", "common.py", "misc.py"}
MOST_LINES = 300

FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {file: ast.parse(path.read_text(encoding="utf-8")) for file, path in FILES.items()}
LOWER = [file for file in TREES if file not in MAY_IMPORT_EVERYTHING]
NODES = {file: list(ast.walk(tree)) for file, tree in TREES.items()}


def part_of(file: str) -> str:
    """Return the sub-package or module that stands on a floor: ``train`` of ``train/step.py``."""
    return file.partition("/")[0].removesuffix(".py")


def imports(file: str) -> Iterator[str]:
    """Yield the full name of every module that is imported anywhere in a file."""
    for node in NODES[file]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "hpc_bnn":  # from hpc_bnn import losses
                yield from (f"hpc_bnn.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def nodes_of(kind: type[Node]) -> Iterator[tuple[str, Node]]:
    """Yield every node of a kind with the file and line where it stands."""
    for file, nodes in NODES.items():
        for node in nodes:
            if isinstance(node, kind):
                yield f"{file}: line {node.lineno}", node


def test_the_package_is_there() -> None:
    assert {"cli/program.py", "group.py", "parallel/mpi.py", "train/step/step.py"} <= set(FILES)


def test_every_part_stands_on_a_floor() -> None:
    assert [file for file in LOWER if part_of(file) not in FLOORS] == []


def test_imports_go_down_only() -> None:
    wrong = []
    for file in LOWER:
        here = part_of(file)
        for name in imports(file):
            root, _, rest = name.partition(".")
            there = rest.partition(".")[0]
            if root == "hpc_bnn" and rest and there != here and FLOORS[there] >= FLOORS[here]:
                wrong.append(f"{file} on floor {FLOORS[here]} imports {name} on {FLOORS[there]}")
    assert wrong == []


def test_training_names_no_data_set() -> None:
    wrong = [
        f"{file} imports {name}"
        for file in TREES
        for name in imports(file)
        if file.startswith("train/") and name in {*DATA_SETS.values(), "hpc_bnn.fields.outline"}
    ]
    assert wrong == []


def test_imports_are_absolute_and_of_names() -> None:
    wrong = [
        place
        for place, node in nodes_of(ast.ImportFrom)
        if node.level or any(a.name == "*" for a in node.names)
    ]
    assert wrong == []


def test_the_package_itself_gives_its_version_only() -> None:
    """``import hpc_bnn`` below the top would reach up through the public names."""
    wrong = [
        f"{place}: hpc_bnn.{node.attr}"
        for place, node in nodes_of(ast.Attribute)
        if isinstance(node.value, ast.Name)
        and node.value.id == "hpc_bnn"
        and not node.attr.startswith("__")
        and place.partition(":")[0] in LOWER
    ]
    assert wrong == []


def test_mpi_engines_and_netcdf_have_one_place_each() -> None:
    wrong = [
        f"{file} imports {name}"
        for file in FILES
        for name in imports(file)
        for library, places in ONLY_IN.items()
        if f"{name}.".startswith(f"{library}.") and not file.startswith(places)
    ]
    assert wrong == []


def test_only_the_command_line_prints() -> None:
    wrong = [
        place
        for place, node in nodes_of(ast.Call)
        if isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and not place.startswith("cli/")
    ]
    assert wrong == []


def test_files_are_short_and_named_after_what_they_hold() -> None:
    lines = {file: path.read_bytes().count(b"\n") for file, path in FILES.items()}
    assert {file: count for file, count in lines.items() if count > MOST_LINES} == {}, "split them"
    assert [file for file, path in FILES.items() if path.name in VAGUE] == []


def test_ascii_only() -> None:
    wrong = [
        f"{file}: line {number}"
        for file, path in FILES.items()
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1)
        if not line.isascii()
    ]
    assert wrong == []


def test_every_module_and_every_public_name_has_a_docstring() -> None:
    wrong = [file for file, tree in TREES.items() if not ast.get_docstring(tree)]
    for file, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if "overload" in map(ast.unparse, node.decorator_list):
                    continue  # the signature of a function that follows
                wrong += [] if ast.get_docstring(node) else [f"{file}: {node.name}"]
    assert wrong == []


def test_unit_tests_have_names_of_their_own() -> None:
    """pytest imports them by file name: two of one name cannot both be collected."""
    tests = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted(tests) == sorted(set(tests))


def test_no_name_of_a_package_hides_a_module_of_it() -> None:
    """``import hpc_bnn.a.b as c`` would get the name instead of the module."""
    hidden = [
        f"{file}: {alias.asname or alias.name} hides the module"
        for file, nodes in NODES.items()
        if file.endswith("__init__.py")
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if (PACKAGE / file).with_name(f"{alias.asname or alias.name}.py").exists()
        and node.module != f"hpc_bnn/{file}".removesuffix("/__init__.py").replace("/", ".")
    ]
    assert hidden == []


def test_nothing_outside_bayes_names_a_method() -> None:
    """A posterior is one file and one line; hb.Gaussian is a public name."""
    words = re.compile(r"bayes\.gaussian|\bantithetic\b|\bkeep_noise\b|\.log_sigma\[")
    wrong = [
        file
        for file, path in FILES.items()
        if not file.startswith("bayes/") and words.search(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []
