"""Fail unless every package that hpc_bnn needs is there, in a version that it takes.

Beside a machine's own packages pip check would also judge those, which are not ours to mend.
"""

import sys
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

problems = []
for need in map(Requirement, requires("hpc_bnn") or ()):
    if need.marker is not None and not need.marker.evaluate({"extra": ""}):
        continue
    try:
        if not need.specifier.contains(version(need.name), prereleases=True):
            problems.append(f"{need}, found {version(need.name)}")
    except PackageNotFoundError:
        problems.append(f"{need}, found none")
if problems:
    sys.exit(f"hpc_bnn needs {'; '.join(problems)}. Load other modules, or leave TORCH out.")
