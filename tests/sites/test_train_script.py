"""How train.sbatch treats its arguments, the signal and the status of the ranks.

Bash runs the script; ``srun`` runs its command twice on this machine, ``python`` is a few lines in
place of the program, and ``scontrol`` notes what it was asked. tests/slurm has the real ones.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from site_files import render

# Two ranks; like the real one, passes a signal on to both and reports the highest status.
SRUN = r"""#!/bin/bash
while [[ $1 == -* ]]; do shift; done
printf '%s\n' "$*" >>srun.log
trap 'kill -USR2 -- "${tasks[@]/#/-}" 2>/dev/null; asked=yes' USR2
for SLURM_PROCID in 0 1; do
  export SLURM_PROCID
  setsid "$@" &
  tasks+=($!)
done
rc=0
for task in "${tasks[@]}"; do
  while asked=""; wait "$task"; status=$?; [[ -n $asked ]]; do :; done
  ((status > rc)) && rc=$status
done
exit "$rc"
"""


@dataclass
class Desk:
    """A folder with the script and the commands that it finds."""

    folder: Path

    def script(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NAME": "train"}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["bash", self.folder / "site" / "jobscripts" / "train.sbatch", *arguments],
            cwd=self.folder,
            env={"PATH": path, **job, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        job = self.start(*arguments, **variables)
        output, _ = job.communicate(timeout=60)
        return job.returncode, output

    def requeued(self) -> str:
        log = self.folder / "scontrol.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def desk(tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    desk = Desk(tmp_path)
    site = render(getattr(request, "param", "generic_slurm"), tmp_path / "site")
    (site / "env").unlink()  # the script puts env/bin first on PATH
    (site / "env").mkdir()
    (site / "env" / "bin").symlink_to(tmp_path / "bin")
    desk.script("srun", SRUN)
    desk.script(
        "scontrol",
        '#!/bin/bash\n[[ $1 != show ]] || exec printf "%s\\n" n1\necho "$@" >>scontrol.log\n',
    )
    desk.script("squeue", "#!/bin/bash\necho n1\n")
    desk.script("python", "#!/bin/bash\nexit 0\n")
    return desk


def test_arguments_reach_the_program(desk: Desk) -> None:
    assert desk.run("configs/swin.yaml", "grid.mode=hybrid", "train.lr=0.1")[0] == 0
    called = (desk.folder / "srun.log").read_text().strip()
    assert called.endswith(
        "python -u -m mpi4py -m hpc_bnn train configs/swin.yaml grid.mode=hybrid train.lr=0.1 "
        "--default train.checkpoint_every=500 --default train.stall_timeout=600 "
        "--default train.snapshot_every=50 "
        "--run runs/swin --resume"
    )
    assert (desk.folder / "runs" / "swin").is_dir()


@pytest.mark.parametrize("given", [["--run", "a b/c"], ["--run=a b/c"]])
def test_run_folder_may_be_given(desk: Desk, given: list[str]) -> None:
    assert desk.run(*given, "x.yaml", "--resume")[0] == 0
    assert "--run a b/c --resume" in (desk.folder / "srun.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: sbatch"),
        (["a.yaml", "b.yaml"], "two settings files: a.yaml and b.yaml"),
        (["a.yaml", "--time=1"], "--time=1: unknown option"),
        (["a.yaml", "--run"], "--run needs a folder"),
    ],
)
def test_wrong_arguments_start_nothing(desk: Desk, arguments: list[str], said: str) -> None:
    status, output = desk.run(*arguments)
    assert status == 2
    assert said in output
    assert not (desk.folder / "srun.log").exists()


def test_without_an_environment_it_says_how_to_build_one(desk: Desk) -> None:
    (desk.folder / "site" / "env" / "bin").unlink()
    status, output = desk.run("x.yaml")
    assert status == 2
    assert "cmake --build build -t env" in output


@pytest.mark.parametrize("status", [2, 137])
def test_other_statuses_are_passed_on(desk: Desk, status: int) -> None:
    desk.script("python", f"#!/bin/bash\nexit {status}\n")
    assert desk.run("x.yaml")[0] == status
    assert not desk.requeued()


def test_unfinished_is_requeued(desk: Desk) -> None:
    desk.script("python", "#!/bin/bash\nexit 85\n")
    status, output = desk.run("x.yaml", SLURM_RESTART_COUNT="19")
    assert status == 0
    assert desk.requeued() == "requeue 7\n"
    assert "restart 19 of at most 20" in output
    assert not (desk.folder / "runs" / "x" / ".requeue-7").exists()


def test_unfinished_is_requeued_though_a_rank_crashed_on_its_way_out(desk: Desk) -> None:
    desk.script("python", "#!/bin/bash\n[[ $SLURM_PROCID = 0 ]] && exit 85\nsleep 1; exit 139\n")
    assert desk.run("x.yaml")[0] == 0
    assert desk.requeued() == "requeue 7\n"


def test_a_stuck_rank_is_requeued(desk: Desk) -> None:
    """The rank that found it ends all: srun reports one that was killed, whose shell left no word.

    So the program itself leaves the note.
    """
    desk.script(
        "python",
        "#!/bin/bash\n[[ $SLURM_PROCID = 0 ]] && sleep 1 && kill -KILL $PPID\n"
        'echo 86 >"$HPC_BNN_NOTE"; exit 86\n',
    )
    status, output = desk.run("x.yaml", SLURM_RESTART_COUNT="19")
    assert status == 0
    assert desk.requeued() == "requeue 7\n"
    assert "a rank was stuck: requeueing job 7 for restart 20" in output
    status, output = desk.run("x.yaml", SLURM_RESTART_COUNT="20")
    assert status == 86
    assert "a rank was stuck after 20 restarts" in output


@pytest.mark.parametrize(
    ("name", "requeued"), [("TERM", "requeue 7\n"), ("USR1", "")], ids=["TERM", "USR1"]
)
def test_term_to_srun_itself(desk: Desk, name: str, requeued: str) -> None:
    """It kills the ranks at once then: the job goes on from the last checkpoint. Where they died
    of something else after the warning of the time limit, the job has failed.
    """
    desk.script("srun", f"#!/bin/bash\nkill -{name} $PPID; sleep 1; exit 137\n")
    status, output = desk.run("x.yaml")
    assert status == (0 if requeued else 137), output
    assert desk.requeued() == requeued


def test_a_job_that_somebody_ends_is_not_requeued(desk: Desk) -> None:
    """TERM of scancel reaches the ranks, which write a checkpoint as before any end."""
    desk.script("python", "#!/bin/bash\nexit 85\n")
    desk.script("squeue", "#!/bin/bash\necho COMPLETING\n")
    status, output = desk.run("x.yaml")
    assert status == 85
    assert "not requeued" in output
    assert not desk.requeued()


def test_a_note_of_an_earlier_job_counts_for_nothing(desk: Desk) -> None:
    (desk.folder / "runs" / "x").mkdir(parents=True)
    (desk.folder / "runs" / "x" / ".requeue-7").touch()
    assert desk.run("x.yaml")[0] == 0
    assert not desk.requeued()


def test_restarts_are_limited(desk: Desk) -> None:
    desk.script("python", "#!/bin/bash\nexit 85\n")
    status, output = desk.run("x.yaml", SLURM_RESTART_COUNT="20")
    assert status == 85
    assert "not finished after 20 restarts" in output
    assert desk.run("x.yaml", SLURM_RESTART_COUNT="2", MAX_RESTARTS="2")[0] == 85
    assert not desk.requeued()


def test_what_cannot_be_requeued_fails(desk: Desk) -> None:
    desk.script("python", "#!/bin/bash\nexit 85\n")
    desk.script("scontrol", "#!/bin/bash\nexit 1\n")
    status, output = desk.run("x.yaml")
    assert status == 85
    assert "could not requeue" in output


# Two ranks that listen to the signal, the second one late: it is still importing.
LISTENING = (
    "#!/usr/bin/env python3\n"
    "import os, signal, sys, time\n"
    "rank = os.environ['SLURM_PROCID']\n"
    "if rank == '1': time.sleep(3)\n"
    "signal.signal(signal.SIGUSR2, lambda *_: sys.exit(85))\n"
    "open('ready' + rank, 'w').close()\n"
    "time.sleep(50); sys.exit(1)\n"
)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_the_signal_reaches_every_rank_also_one_that_starts_late(desk: Desk, name: str) -> None:
    desk.script("python", LISTENING)
    job = desk.start("x.yaml")
    while not (desk.folder / "ready0").exists():
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(job.pid, signal.Signals[name])  # to the batch script alone, as --signal=B: does
    output, _ = job.communicate(timeout=40)
    assert job.returncode == 0, output
    assert "time is nearly up" in output
    assert (desk.folder / "ready1").exists()
    assert desk.requeued() == "requeue 7\n"


@pytest.mark.parametrize("desk", ["horeka"], indirect=True)
def test_a_signal_while_modules_load_is_obeyed_once_the_ranks_run(desk: Desk) -> None:
    desk.script("module", "#!/bin/bash\ntouch loading; sleep 2\n")
    desk.script("python", LISTENING)
    job = desk.start("x.yaml")
    while not (desk.folder / "loading").exists():
        assert job.poll() is None
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGUSR1)
    output, _ = job.communicate(timeout=40)
    assert job.returncode == 0, output
    assert (desk.folder / "ready0").exists()
    assert (desk.folder / "ready1").exists()
    assert desk.requeued() == "requeue 7\n"


def test_ranks_ignore_signals_until_the_program_listens(desk: Desk) -> None:
    """Preemption sends TERM to all processes of all ranks: also to one that is importing."""
    desk.script("python", "#!/bin/bash\nkill -TERM $PPID $$; kill -USR2 $PPID $$; exit 85\n")
    assert desk.run("x.yaml")[0] == 0
    assert desk.requeued() == "requeue 7\n"


@pytest.mark.parametrize(("restart", "before"), [(0, []), (1, ["true"]), (2, [])])
def test_the_step_of_a_start_is_not_that_of_the_start_before(
    desk: Desk, restart: int, before: list[str]
) -> None:
    """Slurm counts the steps of a start from 0, and a node that wakes ends its own by number."""
    assert desk.run("x.yaml", SLURM_RESTART_COUNT=str(restart))[0] == 0
    steps = (desk.folder / "srun.log").read_text().splitlines()
    assert [step for step in steps if step == "true"] == before
    assert "python" in steps[-1]
