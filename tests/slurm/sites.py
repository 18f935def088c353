"""Job scripts and machine shapes of the sites, as CMake makes them of modules/sites/."""

import os
import subprocess
from pathlib import Path

from configuration import Shape

ROOT = Path(__file__).parents[2]
SITES = sorted(path.stem for path in (ROOT / "modules" / "sites").glob("*.cmake"))


def render(site: str, folder: Path) -> Path:
    """Fill in the job scripts of a site and return their folder."""
    _cmake("render", f"SITE={site}", f"OUT={folder}")
    return folder / "jobscripts"


def facts(site: str) -> dict[str, str]:
    """Return what modules/cmake/shape.cmake says of a site."""
    lines = _cmake("shape", f"SITE={site}").splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def shape(site: str, nodes: int) -> Shape:
    """Return the shape of a small machine with the nodes of a site."""
    said = facts(site)
    return Shape(
        nodes=nodes,
        cores=int(said["cores"]),
        threads_per_core=int(said["threads"]),
        gpus=int(said["gpus"]),
        partitions=tuple(filter(None, said["partitions"].split(","))) or Shape.partitions,
        features=tuple(filter(None, said["features"].split(","))),
    )


def _cmake(script: str, *settings: str) -> str:
    options = [word for setting in settings for word in ("-D", setting)]
    done = subprocess.run(
        [os.environ.get("HPC_BNN_CMAKE", "cmake"), *options, "-P", f"modules/cmake/{script}.cmake"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout
