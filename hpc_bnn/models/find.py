"""Find a network by its name in MODELS, or by the path of a class of a user's own,
``package.module:Class``.
"""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hpc_bnn.models import MODELS
from hpc_bnn.spelling import nearest

CALLED = "called as Class(input_shape, output_shape, **options)"

# In what torch says where a device or its memory fails.
DEVICE_FAULTS = ("memory", "CUDA error", "CUBLAS", "cuDNN", "HIP error", "NCCL")


def is_path(name: str) -> bool:
    """Tell whether a name is the path of a class."""
    return ":" in name


def find_model(name: str) -> Callable[..., nn.Module]:
    """Return what makes the network; the module of a path is looked for where Python looks, and in
    the current folder.

    Raises
    ------
    ValueError
        If there is none; it says what to do.
    """
    if not is_path(name):
        if name in MODELS:
            return MODELS[name]
        known = f"{', '.join(MODELS)}{nearest(name, MODELS)}"
        raise ValueError(
            f"model.name = {name!r}: expected one of {known}; or a class of your own as "
            "package.module:Class. One that a script put into MODELS is known there only: give its "
            "path, of a trained run too, as model.name=package.module:Class"
        )
    module_name, _, path = name.partition(":")
    where, found = f"model.name = {name!r}", _imported(name, module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            classes = [each for each, of in vars(found).items() if inspect.isclass(of)]
            has = ", ".join(each for each in classes if not each.startswith("_")) or "no class"
            raise ValueError(f"{where}: {module_name} has {has}, no {part}{nearest(part, classes)}")
        found = getattr(found, part)
    if not callable(found) or not _takes_shapes(found):
        raise ValueError(f"{where}: {path} is not {CALLED}")
    model: Callable[..., nn.Module] = found
    return model


def make_network(
    name: str, shapes: Sequence[tuple[int, ...]], options: Mapping[str, Any]
) -> nn.Module:
    """Return the network for shapes of one example's input and output.

    Raises
    ------
    ValueError
        If there is none of that name, or making a user's own fails; it says in which line.
    """
    model = find_model(name)
    if not is_path(name):
        return model(*shapes, **options)
    try:
        network = model(*shapes, **options)
    except Exception as error:  # code of a user
        frames = traceback.extract_tb(error.__traceback__)
        file = sys.modules[name.partition(":")[0]].__file__
        *_, last = [each for each in frames if each.filename == file] or frames
        where, kind = f"{last.filename}, line {last.lineno}", type(error).__name__
        raise ValueError(
            f"model.name = {name!r}: making it for {' -> '.join(map(str, shapes))} failed at "
            f"{where}: {kind}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"model.name = {name!r}: expected a torch.nn.Module, got {type(network).__name__}"
        )
    return network


def describe_failure(name: str, error: Exception) -> str:
    """Say in which line of a network of a user's own something failed; empty where it was not in
    there, or where its device or memory failed, after which a job may go on.
    """
    if not is_path(name) or isinstance(error, MemoryError):
        return ""
    if any(text in str(error) for text in DEVICE_FAULTS):
        return ""
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    if not lines:
        return ""
    kind = type(error).__name__
    return f"model.name = {name!r}: failed at {file}, line {lines[-1]}: {kind}: {error}"


def model_files(name: str) -> dict[str, Path]:
    """Return the files that a network of a user's own is made of, by their names: the module, and
    what lies in its package beside it and below; none for one in MODELS.

    Raises
    ------
    ValueError
        As ``find_model``.
    """
    if not is_path(name):
        return {}
    find_model(name)
    module = sys.modules[name.partition(":")[0]]
    if module.__file__ is None:
        return {}
    file, package = Path(module.__file__), module.__package__
    if not package:
        return {file.name: file}
    # Editors leave links to nowhere, such as .#net.py.
    below = (each for each in file.parent.rglob("[!.]*.py") if each.is_file())
    beside = {file, *below}
    return {f"{package}/{each.relative_to(file.parent)}": each for each in sorted(beside)}


def _imported(name: str, module_name: str) -> Any:
    here = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if here not in sys.path and "" not in sys.path:  # for modules that it imports later, too
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"model.name = {name!r}: importing {module_name}: {error}") from error
        raise ValueError(
            f"model.name = {name!r}: no module {error.name} in {here} nor where Python looks: "
            "start the command in the folder that holds it, or put that folder into PYTHONPATH"
        ) from error
    except Exception as error:  # code of a user
        kind = type(error).__name__
        raise ValueError(f"model.name = {name!r}: importing it failed: {kind}: {error}") from error


def _takes_shapes(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind_partial((1,), (1,))
    except (TypeError, ValueError):
        return False
    return True
