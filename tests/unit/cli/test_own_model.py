"""A network of a user's own, by the path of its class: trained, evaluated, refused by name."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import SERIES, hpc_bnn, read_json, written

from hpc_bnn.models import MLP, MODELS

NET = """
import math
import torch

class Net(torch.nn.Module):
    def __init__(self, shape_in, shape_out, *, width: int = 4):
        super().__init__()
        self.shape = tuple(shape_out)
        self.first = torch.nn.Linear(math.prod(shape_in), width)
        self.last = torch.nn.Linear(width, math.prod(shape_out))

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).tanh()).reshape(-1, *self.shape)

def helper(x):
    return x
"""
COUNTER = iter(range(100))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The file of a user's own in the current folder, which Python does not look in."""
    name = f"own_net_{next(COUNTER)}"
    (tmp_path / f"{name}.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    yield name
    sys.modules.pop(name, None)


def config(path: Path, **model: Any) -> Path:
    return written(path / "a.yaml", {**copy.deepcopy(SERIES), "model": model})


def test_it_is_trained_evaluated_and_predicts_by_its_path(module: str, tmp_path: Path) -> None:
    file = config(tmp_path, name=f"{module}:Net", width=3)
    assert hpc_bnn("train", file, "--run", "run") == 0
    for command in (("evaluate", "run"), ("predict", "run", "-o", "out.csv")):
        sys.modules.pop(module)
        assert hpc_bnn(*command) == 0
    assert read_json(tmp_path / "run" / "evaluation.json")["step"] == 6


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("MODULE:Nett", "has Net, no Nett; did you mean Net?"),
        ("MODULE:helper", "helper is not called as Class(input_shape, output_shape"),
        ("nowhere_at_all:Net", "no module nowhere_at_all in "),
        ("own", "or a class of your own as package.module:Class"),
    ],
)
def test_what_is_no_network_says_what_to_do(
    module: str, tmp_path: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, name=name.replace("MODULE", module))
    assert hpc_bnn("train", file, "--run", "run") == 2
    error = capsys.readouterr().err
    assert told in error
    assert "a.yaml: model.name" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("self.last =", "self.last = 1 / 0 #"), "line 10: ZeroDivisionError: division by zero"),
        (("torch.nn.Linear(width", "torch.nn.Linear(-width"), ", line 10: RuntimeError: "),
        (("super().__init__()", "pass"), ", line 9: AttributeError: cannot assign module"),
    ],
)
def test_where_making_it_fails_is_told(
    module: str,
    tmp_path: Path,
    change: tuple[str, str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = tmp_path / f"{module}.py"
    own.write_text(NET.replace(*change), encoding="utf-8")
    assert hpc_bnn("train", config(tmp_path, name=f"{module}:Net"), "--run", "run") == 2
    error = capsys.readouterr().err
    assert f"model.name = '{module}:Net': making it for (" in error
    assert f"failed at {own}" in error
    assert told in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((".tanh()", ".tanh()[..., 99]"), "line 13: IndexError: "),
        (("self.last(self", "{}['lost'] or self.last(self"), "line 13: KeyError: 'lost'"),
        (("x.flatten(1)", "x"), "line 13: RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_where_it_fails_in_training_is_told(
    module: str,
    tmp_path: Path,
    change: tuple[str, str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / f"{module}.py").write_text(NET.replace(*change), encoding="utf-8")
    assert hpc_bnn("train", config(tmp_path, name=f"{module}:Net"), "--run", "run") == 2
    error = capsys.readouterr().err
    assert f"model.name = '{module}:Net': failed at {tmp_path / module}.py, {told}" in error
    assert "Traceback" not in error


def test_what_is_made_must_be_a_module(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def Net(shape_in, shape_out):\n    return 3\n"
    (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
    assert hpc_bnn("train", config(tmp_path, name=f"{module}:Net"), "--run", "run") == 2
    assert "expected a torch.nn.Module, got int" in capsys.readouterr().err


def test_its_options_are_checked_against_its_signature(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path, name=f"{module}:Net", width="wide", depth=2)
    assert hpc_bnn("train", file, "--run", "run") == 2
    error = capsys.readouterr().err
    assert "model.depth: unknown key" in error
    assert "model.width = 'wide'" in error


def test_a_module_that_fails_is_told(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{module}.py").write_text("import not_here_either", encoding="utf-8")
    assert hpc_bnn("train", config(tmp_path, name=f"{module}:Net"), "--run", "run") == 2
    assert f"importing {module}: No module named 'not_here_either'" in capsys.readouterr().err


def test_a_run_whose_model_a_script_registered_is_told_how_to_give_it(
    module: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(MODELS, "own", MLP)
    assert hpc_bnn("train", config(tmp_path, name="own", hidden=[3]), "--run", "run") == 0
    monkeypatch.delitem(MODELS, "own")
    capsys.readouterr()
    assert hpc_bnn("evaluate", "run") == 2
    error = capsys.readouterr().err
    assert "model.name = 'own': expected one of mlp, " in error
    assert "give its path, of a trained run too, as model.name=package.module:Class" in error
    assert hpc_bnn("evaluate", "run", "model.name=hpc_bnn.models.mlp:MLP") == 0
    assert read_json(tmp_path / "run" / "evaluation.json")["step"] == 6


@pytest.mark.parametrize(
    "fault",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA out of memory. Tried to allocate 2 GiB",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm",
    ],
)
def test_a_device_that_fails_in_it_is_not_taken_for_its_fault(
    module: str, tmp_path: Path, fault: str
) -> None:
    """A job goes on after it; after status 2 it does not."""
    fails = NET.replace(
        "return self.last", f"raise RuntimeError({fault!r})\n        return self.last"
    )
    (tmp_path / f"{module}.py").write_text(fails, encoding="utf-8")
    with pytest.raises(RuntimeError, match=fault[:10]):
        hpc_bnn("train", config(tmp_path, name=f"{module}:Net"), "--run", "run")
