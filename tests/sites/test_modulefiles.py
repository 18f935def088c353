"""The modulefiles in real module systems: Lmod reads both, environment-modules the Tcl one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from site_files import VERSION, site_names

LMOD = Path("/etc/profile.d/lmod.sh")
needs_lmod = pytest.mark.skipif(not LMOD.exists(), reason="no Lmod on this machine")
# Runs a shell script after the start of a module system, returns its output.
Shell = Callable[[str], str]


def in_shell(start: str, script: str) -> str:
    """Run the script in a shell that has nothing of this one but the way to programs."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
    kept |= {key: value for key, value in os.environ.items() if "ALLOW_RUN_AS_ROOT" in key}
    kept["PATH"] = ":".join(
        part for part in kept["PATH"].split(":") if Path(part) != Path(sys.prefix) / "bin"
    )
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", f"{start}\n{script}"],
        env=kept, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    print(done.stderr)  # what module systems tell the user; pytest shows it where a test fails
    return done.stdout


@pytest.fixture(scope="module")
def lmod() -> Shell:
    return lambda script: in_shell(f". {LMOD}", script)


@pytest.fixture(scope="module")
def environment_modules(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """Debian's package conflicts with Lmod's, so it is unpacked beside it, not installed."""
    if not shutil.which("tclsh"):
        pytest.skip("no tclsh on this machine")
    installed = sorted(Path("/usr/lib").glob("**/modulecmd.tcl"))
    if not installed:
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            pytest.skip("no environment-modules, and no apt-get to bring it")
        folder = tmp_path_factory.mktemp("environment-modules")
        got = subprocess.run(
            ["apt-get", "-qq", "download", "environment-modules"], cwd=folder, capture_output=True
        )
        packages = list(folder.glob("*.deb"))
        if got.returncode or not packages:
            pytest.skip("environment-modules cannot be downloaded (apt-get update first?)")
        subprocess.run(["dpkg", "-x", packages[0], folder / "root"], check=True)
        installed = sorted((folder / "root" / "usr" / "lib").glob("**/modulecmd.tcl"))
    start = f'module() {{ eval "$(tclsh {installed[0]} bash "$@")"; }}'
    return lambda script: in_shell(start, script)


def modules_of(root: Path) -> list[str]:
    """Return the modules that the site's job scripts load."""
    script = root / "jobscripts" / "doctor.sbatch"
    lines = script.read_text(encoding="utf-8").splitlines() if script.exists() else []
    start = "module load "
    load = next((line for line in lines if line.startswith(start)), start)
    return load.removeprefix(start).removesuffix(" || exit 1").split()


def stand_ins(names: list[str], folder: Path) -> Path:
    """Make a folder with an empty module for each name."""
    folder.mkdir()
    for name in names:
        path = folder / name / "1"  # devel/cuda may be a name and devel/cuda/1 its version
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#%Module1.0\n", encoding="utf-8")
    return folder


# Load, load again, unload: what is set, what stays.
ROUND = """
export NCCL_DEBUG=MINE
module use {stand_ins} {modulefiles}
module load hpc_bnn/{version}
echo "program $(command -v hpc-bnn)"
echo "root $HPC_BNN_ROOT site $HPC_BNN_SITE locks $HDF5_USE_FILE_LOCKING nccl $NCCL_DEBUG"
module load hpc_bnn
module list 2>&1 | tr '\\n' ' '; echo
module show hpc_bnn 2>&1 | grep -c {root}/env/bin
module unload hpc_bnn
echo "after ${{HPC_BNN_ROOT-none}} $(command -v hpc-bnn)"
echo "nccl ${{NCCL_DEBUG-unset}}"
"""


def check_round(shell: Shell, site: str, root: Path, modulefiles: str, folder: Path) -> str:
    said = shell(
        ROUND.format(
            stand_ins=stand_ins(modules_of(root), folder / "stand-ins"),
            modulefiles=root / modulefiles, version=VERSION, root=root,
        )
    )  # fmt: skip
    lines = said.splitlines()
    assert lines[0] == f"program {root}/env/bin/hpc-bnn", said
    assert lines[1] == f"root {root} site {site} locks FALSE nccl WARN", said
    for name in [*modules_of(root), "hpc_bnn"]:
        assert name in lines[2], said
    assert lines[3] != "0", said
    assert lines[4] == "after none ", said
    return lines[5]


@needs_lmod
@pytest.mark.parametrize("site", site_names())
def test_lua_in_lmod(site: str, rendered: dict[str, Path], lmod: Shell, tmp_path: Path) -> None:
    left = check_round(lmod, site, rendered[site], "modules", tmp_path)
    assert left == "nccl MINE"  # the user's own value is back


@needs_lmod
def test_tcl_in_lmod(rendered: dict[str, Path], lmod: Shell, tmp_path: Path) -> None:
    check_round(lmod, "leonardo", rendered["leonardo"], "modulefiles-tcl", tmp_path)


# With the modules of the machine and without.
@pytest.mark.parametrize("site", ["local", "leonardo", "lumi_g"])
def test_tcl_in_environment_modules(
    site: str, rendered: dict[str, Path], environment_modules: Shell, tmp_path: Path
) -> None:
    check_round(environment_modules, site, rendered[site], "modulefiles-tcl", tmp_path)


COMPLETES = """
PS1='$ '
module use {stand_ins} {root}/{modulefiles}
module load hpc_bnn
complete -p hpc-bnn
unset -f _hpc_bnn; complete -r hpc-bnn; module unload hpc_bnn; unset PS1
module load hpc_bnn; complete -p hpc-bnn 2>/dev/null || echo none in a job
"""


def check_completion(shell: Shell, root: Path, modulefiles: str, folder: Path) -> None:
    places = {"stand_ins": stand_ins(modules_of(root), folder / "stand-ins"), "root": root}
    said = shell(COMPLETES.format(**places, modulefiles=modulefiles))
    expected = ["complete -o default -F _hpc_bnn hpc-bnn", "none in a job"]
    assert said.splitlines() == expected, said


@needs_lmod
@pytest.mark.parametrize("modulefiles", ["modules", "modulefiles-tcl"])
def test_completion_in_lmod(
    modulefiles: str, rendered: dict[str, Path], lmod: Shell, tmp_path: Path
) -> None:
    check_completion(lmod, rendered["local"], modulefiles, tmp_path)


def test_completion_in_environment_modules(
    rendered: dict[str, Path], environment_modules: Shell, tmp_path: Path
) -> None:
    check_completion(environment_modules, rendered["local"], "modulefiles-tcl", tmp_path)


@needs_lmod
def test_the_folder_may_move(rendered: dict[str, Path], lmod: Shell, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(rendered["local"], moved, symlinks=True)
    said = lmod(f"module use {moved}/modules\nmodule load hpc_bnn\ncommand -v hpc-bnn")
    assert said.strip() == f"{moved}/env/bin/hpc-bnn"
