"""The job scripts of every site: shell that runs, and what each machine needs in it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from site_files import JOBS, WITHOUT_SLURM, render, shape, site_names, slurm_sites

from hpc_bnn.parallel.control import NOTE, STALLED
from hpc_bnn.train.run.stop import REQUEUE, SIGNAL

CACHES = (
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "CUDA_CACHE_PATH",
    "MIOPEN_USER_DB_PATH",
    "MIOPEN_CUSTOM_CACHE_DIR",
)
CONTAINERS = ("Dockerfile", "container.def")
ALL = sorted([*(f"{job}.sbatch" for job in JOBS), "scaling.sh"])

# From the sites' own documentation: without these lines jobs do not start there, or run slowly.
NEEDED = {
    "alps": ["--gpus-per-node=4", "--cpus-per-task=72", 'NCCL_NET:-AWS Libfabric}"'],
    "frontier": [
        "--partition=batch",
        "--ntasks-per-node=8",
        "--cpus-per-task=7",
        "--network=disable_rdzv_get",
        '"--gpus-per-task=1" "--gpu-bind=closest"',
        "NCCL_SOCKET_IFNAME:-hsn0,hsn1,hsn2,hsn3}",
        "FI_CXI_RDZV_PROTO:-alt_read}",
        "LD_LIBRARY_PATH=$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH",
        "rccl-net-plugin",
    ],
    "generic_slurm": ["--ntasks-per-node=4", "--gres=gpu:4", '"--mpi=pmix"'],
    "horeka": ["--partition=accelerated", "--gres=gpu:4", "--cpus-per-task=19", "module load "],
    "juwels_booster": [
        "--partition=booster",
        "--threads-per-core=1",
        "export CUDA_VISIBLE_DEVICES=0,1,2,3",
    ],
    "jupiter": ["--partition=booster", "--gres=gpu:4"],
    "leonardo": ["--partition=boost_usr_prod", "--gres=gpu:4", "--exclusive", "--cpus-per-task=8"],
    "lumi_g": [
        "--partition=standard-g",
        "--gpus-per-node=8",
        "--cpus-per-task=7",
        "mask_cpu:7e000000000000,7e00000000000000,7e0000,7e000000,7e,7e00,7e00000000,7e0000000000",
        "NCCL_SOCKET_IFNAME:-hsn}",
        "aws-ofi-rccl",
    ],
    "perlmutter": ["--constraint=gpu", "--gpus-per-node=4", "--cpus-per-task=32"],
}


def lines(folder: Path, name: str) -> list[str]:
    return (folder / "jobscripts" / name).read_text(encoding="utf-8").splitlines()


def test_every_site_with_slurm_has_every_job_script(rendered: dict[str, Path]) -> None:
    for site in slurm_sites():
        names = sorted(path.name for path in (rendered[site] / "jobscripts").iterdir())
        assert names == sorted([*ALL, *CONTAINERS])
    for site in WITHOUT_SLURM:
        assert not (rendered[site] / "jobscripts").exists()
    assert set(NEEDED) <= set(slurm_sites())


@pytest.mark.parametrize("site", slurm_sites())
def test_nothing_is_left_to_fill_in(site: str, rendered: dict[str, Path]) -> None:
    for name in ALL:
        assert "@HPC_BNN" not in "\n".join(lines(rendered[site], name)), name


@pytest.mark.parametrize("site", slurm_sites())
def test_shell_syntax(site: str, rendered: dict[str, Path]) -> None:
    for name in ALL:
        script = rendered[site] / "jobscripts" / name
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), name


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="no shellcheck on this machine")
@pytest.mark.parametrize("site", slurm_sites())
def test_shellcheck(site: str, rendered: dict[str, Path]) -> None:
    scripts = [rendered[site] / "jobscripts" / name for name in ALL]
    done = subprocess.run(["shellcheck", "-S", "warning", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("site", slurm_sites())
@pytest.mark.parametrize("job", JOBS)
def test_what_every_job_needs(job: str, site: str, rendered: dict[str, Path]) -> None:
    script = lines(rendered[site], f"{job}.sbatch")
    text = "\n".join(script)
    directives = [line for line in script if line.startswith("#SBATCH")]
    commands = next(i for i, line in enumerate(script) if line and not line.startswith("#"))
    assert script[0] == "#!/bin/bash -l"  # a login shell has `module`
    assert not any(line.startswith("#SBATCH") for line in script[commands:])  # Slurm would not see
    assert len({line.split("=")[0] for line in directives}) == len(directives)
    assert f"#SBATCH --job-name={job}" in directives
    assert "#SBATCH --output=%x-%j.out" in directives  # in the folder of sbatch, which exists
    assert "#SBATCH --open-mode=append" in directives
    assert f"#SBATCH --ntasks-per-node={shape(site)['gpus']}" in directives
    for cache in CACHES:
        assert f'export {cache}="${{{cache}:-$caches/' in text
    caches = "$USER-$SLURM_JOB_ID-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')"
    assert f'caches="/tmp/hpc_bnn-{caches}"' in script
    cray = "MPICH_GPU_SUPPORT_ENABLED" in text  # a module may set 1: with NCCL that can hang
    assert ("export MPICH_GPU_SUPPORT_ENABLED=0" in script) == cray
    assert cray or not ("craype" in text or site in ("alps", "perlmutter"))
    assert "set -u" not in text  # site's module functions read unset variables
    assert 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"' in script
    assert any(line.startswith("export OMP_NUM_THREADS=") for line in script)
    assert "HDF5_USE_FILE_LOCKING" in text
    assert "HOROVOD_STALL_CHECK_TIME_SECONDS" in text
    assert '"--kill-on-bad-exit=1"' in text
    assert 'program=("${inside[@]}" python -u -m mpi4py -m hpc_bnn)' in script
    for needed in NEEDED.get(site, ()):
        assert needed in text, needed


@pytest.mark.parametrize("site", slurm_sites())
def test_ranks_fit_on_a_node(site: str, rendered: dict[str, Path]) -> None:
    text = "\n".join(lines(rendered[site], "train.sbatch"))
    node = {key: int(shape(site)[key]) for key in ("cores", "threads", "gpus")}
    cpus = int(text.split("--cpus-per-task=")[1].split()[0])
    one_thread = "--hint=nomultithread" in text or "--threads-per-core=1" in text
    threads = 1 if one_thread else node["threads"]
    assert cpus * node["gpus"] <= node["cores"] * threads


def test_training_ends_and_goes_on_as_the_program_does(rendered: dict[str, Path]) -> None:
    text = "\n".join(lines(rendered["generic_slurm"], "train.sbatch"))
    assert "#SBATCH --signal=B:USR1@120" in text
    assert "#SBATCH --requeue" in text
    assert f"kill -{SIGNAL.name.removeprefix('SIG')} " in text
    assert f'trap "" USR1 {SIGNAL.name.removeprefix("SIG")} TERM' in text
    assert f"export {NOTE}=" in text
    for status in (REQUEUE, STALLED):
        assert f"$rc != {status} ]]" in text
    assert '-m hpc_bnn.parallel.regrid "$run" ' in text
    assert "#SBATCH --no-kill" not in text  # a job whose first node dies would wait for its end


@pytest.mark.parametrize("site", slurm_sites())
def test_signals_are_noted_before_anything_else(site: str, rendered: dict[str, Path]) -> None:
    script = lines(rendered[site], "train.sbatch")
    commands = [line for line in script if line and not line.startswith(("#", " ", "}"))]
    before = commands[: commands.index('trap "ask_to_stop TERM" TERM')]
    functions = ["ask_to_stop() {", "keep_asking() {", "listens() {"]
    assert before[:-1] == ['step="" woken="" asked=""', *functions]
    assert before[-1] == 'trap "ask_to_stop USR1" USR1'


def test_a_script_of_a_user_is_asked_in_time(rendered: dict[str, Path]) -> None:
    """By Slurm, all ranks at once; those that are just starting ignore it."""
    script = lines(rendered["generic_slurm"], "script.sbatch")
    assert f"#SBATCH --signal={SIGNAL.name.removeprefix('SIG')}@120" in script
    assert script[-1] == (
        """"${ranks[@]}" bash -c 'trap "" USR2; exec "$@"' rank "${python[@]}" "$@\""""
    )


def test_a_script_of_a_user_and_its_arguments(tmp_path: Path) -> None:
    script = render("generic_slurm", tmp_path / "site") / "jobscripts" / "script.sbatch"
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s|" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "my script.py").touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["bash", script, "my script.py", "--its", "a b"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.endswith("|rank|python|-u|-m|mpi4py|my script.py|--its|a b|"), done.stderr
    done = subprocess.run(command[:2], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "usage: sbatch [options of sbatch] script.sbatch my_script.py" in done.stderr


def test_folder_with_a_space(tmp_path: Path) -> None:
    script = render("generic_slurm", tmp_path / "my runs") / "jobscripts" / "doctor.sbatch"
    (tmp_path / "srun").write_text('#!/bin/bash\necho "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", script], capture_output=True, text=True, env={"PATH": path}, cwd=tmp_path
    )
    assert done.stdout.endswith("python -u -m mpi4py -m hpc_bnn doctor\n"), done.stderr


@pytest.mark.parametrize("site", site_names())
def test_shape(site: str) -> None:
    found = shape(site)
    assert sorted(found) == [
        "accelerator", "cores", "features", "gpus", "gres", "nodes", "partitions", "threads"
    ]  # fmt: skip
