"""Fail unless the installed Horovod has what the site needs.

Usage: python check_horovod.py mpi [nccl] [libmpi-of-environment]

Horovod's build leaves out silently what it does not find, and a process with two MPI libraries sees
every rank as rank 0; so this asks the compiled library itself and looks at what it really loaded.
"""

import sys
from pathlib import Path


def loaded_libraries(name: str) -> set[Path]:
    """List the files in this process's memory map whose name starts with `name`."""
    maps = Path("/proc/self/maps")
    if not maps.exists():  # not Linux
        return set()
    lines = maps.read_text().splitlines()
    paths = {Path(line.split(maxsplit=5)[5]) for line in lines if "/" in line}
    return {path.resolve() for path in paths if path.name.startswith(name)}


def main(must_have: list[str]) -> None:
    """Import Horovod and check it against `must_have`."""
    # Torch first: it loads the NCCL that Horovod must share.
    import torch  # noqa: F401, I001
    import horovod.torch as hvd

    built = {"mpi": hvd.mpi_built(), "nccl": bool(hvd.nccl_built())}
    missing = [name for name, has in built.items() if name in must_have and not has]
    if missing:
        sys.exit(
            f"horovod: built without {' and '.join(missing)}, which this site needs "
            f"(has: {built}). See build/horovod/build.log for what its CMake did not find."
        )

    # mpi4py only now: Horovod must have found its MPI by itself.
    from mpi4py import MPI

    libraries = loaded_libraries("libmpi.so")
    if len(libraries) > 1:
        sys.exit(f"horovod and mpi4py load different MPI libraries: {sorted(map(str, libraries))}.")
    environment = Path(sys.prefix).resolve()
    outside = [path for path in libraries if not path.is_relative_to(environment)]
    if "libmpi-of-environment" in must_have and outside:
        sys.exit(
            f"horovod: loaded {outside[0]}, expected the MPI wheel's library in {environment}."
        )
    mpi_version = MPI.Get_library_version().split(",")[0]
    print(f"-- Horovod: MPI {built['mpi']}, NCCL {built['nccl']}; {mpi_version}")


if __name__ == "__main__":
    main(sys.argv[1:])
