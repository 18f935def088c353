"""Fail unless the torch of this Python is one that the build can use; print the folder it lies in.

Usage: python check_torch.py cpu|cuda|rocm [--site]

Reads torch/version.py alone, because this runs before torch's own dependencies are installed.
``--site``: a torch of the machine, of which any version may be loaded. It must be one that this
project knows how to compile Horovod against, and built for this Python.
"""

import importlib.util
import re
import runpy
import sys
import sysconfig
from pathlib import Path

# Of setup.py, and the newest whose C++ standard modules/cmake/horovod.cmake knows.
OLDEST, NEWEST = (2, 4), (2, 14)


def torch_folder(advice: str) -> Path:
    """Return the folder of the package torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit(f"torch: not found by {sys.executable}. {advice}")
    return Path(spec.origin).parent


def check_build(folder: Path, expected: str, advice: str) -> str:
    """Fail unless it was built for `expected`; return its version."""
    version = runpy.run_path(str(folder / "version.py"))
    built_for = "cuda" if version.get("cuda") else "rocm" if version.get("hip") else "cpu"
    if built_for != expected:
        sys.exit(
            f"torch {version['__version__']}: built for {built_for}, expected {expected} "
            f"(HPC_BNN_ACCELERATOR of the site). {advice}"
        )
    return str(version["__version__"])


def check_fit(folder: Path, version: str, advice: str) -> None:
    """Fail unless version and binary interface are those that can be built against."""
    number = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not OLDEST <= number <= NEWEST:
        which = "old" if number < OLDEST else "new"
        limits = " to ".join(".".join(map(str, limit)) for limit in (OLDEST, NEWEST))
        sys.exit(f"torch {version} of {folder}: too {which}, expected {limits}. {advice}")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = [path.name for path in folder.glob("_C.*.so")]
    if f"_C{suffix}" not in built:
        sys.exit(
            f"torch {version} of {folder}: built for another Python ({', '.join(built) or 'none'}, "
            f"expected _C{suffix}). {advice}"
        )
    if not (folder / "include").is_dir():
        sys.exit(f"torch {version} of {folder}: has no headers to build Horovod with. {advice}")


def main(expected: str, *, of_site: bool) -> None:
    """Check the torch of this Python."""
    advice = (
        "Let pip find PyTorch's wheels for it (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL in the "
        "environment, HPC_BNN_TORCH_PIP_OPTIONS in the site file), or choose another SITE."
    )
    if of_site:
        advice = "TORCH = site: load the module of another torch, or leave TORCH out: a wheel."
    folder = torch_folder(advice)
    version = check_build(folder, expected, advice)
    if of_site:
        check_fit(folder, version, advice)
        print(folder.parent)


if __name__ == "__main__":
    main(sys.argv[1], of_site="--site" in sys.argv[2:])
