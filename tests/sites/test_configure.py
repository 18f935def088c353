"""What ``cmake -B`` refuses before anything is built: real configures, each lacks one thing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from site_files import CMAKE, ENVIRONMENT, SOURCE

# No pip of the user, and an index where nobody listens.
NO_NETWORK = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}


def configure(
    build: Path, *options: str, given: dict[str, str] | None = None, hide: str = ""
) -> tuple[int, str]:
    """Configure for a site with a Slurm that need not be there; return the status and, in one line,
    what CMake said. ``hide``: shell lines that run before, in mounts of their own.
    """
    (build.parent / "bin").mkdir(exist_ok=True)
    srun = build.parent / "bin" / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    path = f"{srun.parent}:{os.environ['PATH']}"
    command = [CMAKE, "-S", str(SOURCE), "-B", str(build), *options]
    if hide:
        start = ["unshare", "--mount", "--map-root-user", "sh", "-ec", f'{hide}; exec "$@"', "sh"]
        command = [*start, *command]
    done = subprocess.run(
        command, env={**kept, "PATH": path, **(given or {})}, cwd=build.parent,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def full_folder(folder: Path, but: str = "none") -> Path:
    """Make files with the names of all packages of the local site, but one."""
    requirements = folder.parent / "first" / "requirements.txt"
    configure(
        folder.parent / "first", "-D", "SITE=local", given=NO_NETWORK
    )  # writes what is pinned
    folder.mkdir()
    for line in [*requirements.read_text().splitlines(), "horovod==0.28.1"]:
        name, _, version = line.partition("#")[0].partition(";")[0].strip().partition("==")
        if version and name != but:
            (folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").touch()
    return folder


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler called cc on this machine")
def test_a_compiler_that_is_not_of_mpi(tmp_path: Path) -> None:
    """Cray's wrapper has the name of every machine's C compiler."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cc").symlink_to(str(shutil.which("cc")))
    status, said = configure(tmp_path / "build", "-D", "SITE=perlmutter")
    assert status != 0
    assert f"MPI compiler: {tmp_path}/bin/cc compiles no program of MPI" in said
    assert "Load what the site names (module load PrgEnv-gnu" in said
    assert "HPC_BNN_MPICC" not in (tmp_path / "build" / "CMakeCache.txt").read_text()


def test_a_compiler_of_mpi(tmp_path: Path) -> None:
    mpicc = ENVIRONMENT / "bin" / "mpicc"
    if not mpicc.exists():
        pytest.skip(f"no {mpicc}")
    wheels = full_folder(tmp_path / "wheels")
    options = ["-D", "SITE=frontier", "-D", f"HPC_BNN_MPICC={mpicc}", "-D", f"WHEELS={wheels}"]
    status, said = configure(tmp_path / "build", *options, given=NO_NETWORK)
    assert (status, "Build files have been written" in said) == (0, True), said


def test_a_source_folder_that_cannot_be_written(tmp_path: Path) -> None:
    read_only = f'mount --bind "{SOURCE}" "{SOURCE}"; mount -o remount,ro,bind "{SOURCE}"'
    tried = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-ec", read_only], capture_output=True
    )
    if tried.returncode:
        pytest.skip("this user may not mount")
    status, said = configure(tmp_path / "build", "-D", "SITE=local", hide=read_only)
    assert status != 0
    assert f"Source folder: {SOURCE} cannot be written" in said
    assert not (SOURCE / "hpc_bnn" / ".can-be-written").exists()


def test_no_network(tmp_path: Path) -> None:
    status, said = configure(tmp_path / "build", "-D", "SITE=local", given=NO_NETWORK)
    assert status != 0
    assert "No package index: pip cannot fetch 'packaging'" in said
    assert "cmake --build build -t wheels" in said


def test_a_folder_of_wheels_instead_of_a_network(tmp_path: Path) -> None:
    wheels = full_folder(tmp_path / "wheels", but="PyYAML")
    options = ["-D", "SITE=local", "-D", f"WHEELS={wheels}"]
    status, said = configure(tmp_path / "build", *options, given=NO_NETWORK)
    assert status != 0
    assert f"WHEELS = {wheels}: 1 of " in said
    assert "packages are missing: PyYAML==6.0.3. Fill it where there is a network" in said
    (wheels / "pyyaml-6.0.3-cp311-cp311-linux_x86_64.whl").touch()
    status, said = configure(tmp_path / "build", *options, given=NO_NETWORK)
    assert status == 0, said
    rules = "".join(path.read_text() for path in (tmp_path / "build").glob("**/build.make"))
    commands = [line for line in rules.splitlines() if "-m pip" in line and " install " in line]
    assert commands
    assert all(f"--no-index --find-links {wheels}" in line for line in commands), commands
