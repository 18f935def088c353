"""What CMake makes of modules/sites/*.cmake, for tests: files, shape of the machine, its words."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hpc_bnn

SOURCE = Path(__file__).resolve().parents[2]
CMAKE = os.environ.get("HPC_BNN_CMAKE") or shutil.which("cmake") or "cmake"
ENVIRONMENT = Path(sys.prefix)  # build/env, which has everything in it
JOBS = ("data", "doctor", "evaluate", "forecast", "script", "train")
WITHOUT_SLURM = ("local", "workstation")
VERSION = hpc_bnn.__version__


def site_names() -> list[str]:
    """List the sites."""
    return sorted(path.stem for path in (SOURCE / "modules" / "sites").glob("*.cmake"))


def slurm_sites() -> list[str]:
    """List the sites that have job scripts."""
    return [site for site in site_names() if site not in WITHOUT_SLURM]


def render(site: str, folder: Path, **options: str) -> Path:
    """Make the site's job scripts and modulefiles in ``folder``, as they look in a build folder.

    They run with the environment of this Python. ``options``: of the site, as ENV="squashfs".
    """
    words = [f"-D{name}={value}" for name, value in {"SITE": site, **options}.items()]
    cmake(*words, f"-DOUT={folder}", "-P", "modules/cmake/render.cmake")
    (folder / "env").symlink_to(ENVIRONMENT)
    return folder


@functools.cache
def shape(site: str) -> dict[str, str]:
    """Return what stands in for the site's Slurm needs: nodes, accelerator, cores, threads, gpus,
    gres, partitions and features (both with commas).
    """
    lines = cmake("-D", f"SITE={site}", "-P", "modules/cmake/shape.cmake").splitlines()
    return dict(line.split("=", 1) for line in lines)


def cmake(*arguments: str) -> str:
    """Run CMake in the source folder and return its output."""
    done = subprocess.run(
        [CMAKE, *arguments], cwd=SOURCE, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
