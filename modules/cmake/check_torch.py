"""Fail unless the installed torch was built for what the site says: cpu, cuda or rocm.

Reads torch/version.py alone, because this runs before torch's own dependencies are installed.
"""

import importlib.util
import runpy
import sys
from pathlib import Path


def main(expected: str) -> None:
    """Compare the build of the installed torch with `expected`."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("torch: not installed, although pip reported success; see its output above.")
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    built_for = "cuda" if version.get("cuda") else "rocm" if version.get("hip") else "cpu"
    if built_for != expected:
        sys.exit(
            f"torch {version['__version__']}: built for {built_for}, expected {expected} "
            f"(HPC_BNN_ACCELERATOR of the site). Let pip find PyTorch's {expected} wheels "
            "(PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL in the environment, HPC_BNN_TORCH_PIP_OPTIONS "
            "in the site file), or choose another SITE."
        )


if __name__ == "__main__":
    main(sys.argv[1])
