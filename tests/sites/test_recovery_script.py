"""How train.sbatch goes on after a fault: where, how often, and when not.

Bash runs the script; ``srun`` runs its command on this machine, ``python`` is a few lines in place
of the program, ``squeue`` and ``scontrol`` say which nodes there are. tests/slurm has real ones.
"""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from site_files import render

# The ranks of one srun; the program sees its attempt, and what the nodes are.
SRUN = r"""#!/bin/bash
options=()
while [[ $1 == -* ]]; do options+=("$1"); shift; done
printf '%s | %s\n' "${options[*]}" "$*" >>srun.log
for option in "${options[@]}"; do
  [[ $option != --nodelist=* ]] || export NODES=${option#--nodelist=}
done
[[ $* == *hpc_bnn* || -z $NODES ]] || ! grep -qx "$NODES" frozen 2>/dev/null || exec sleep 60
[[ $* == *hpc_bnn* || -z $NODES || ! -f slow ]] || sleep "$(grep -oP "$NODES \\K.*" slow)"
exec "$@"
"""
PYTHON = r"""#!/bin/bash
if [[ $* == *regrid* ]]; then
  [[ -f config ]] || exit 1
  echo "$4 $5 grid.mode=hybrid grid.sample_ranks=$5"
  exit
fi
mkdir -p runs/x
touch runs/x/config.yaml
attempt=${HPC_BNN_ATTEMPT:-0}
echo "$attempt $NODES $HPC_BNN_RECOVERY" >>program.log
"""


@dataclass
class Desk:
    """A folder with the script and the commands that it finds."""

    folder: Path

    def script(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def program(self, lines: str) -> None:
        """Have the ranks do this in a start."""
        self.script("python", PYTHON + lines)

    def run(self, **variables: str) -> tuple[int, str]:
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NAME": "train"}
        job |= {"SLURM_TASKS_PER_NODE": "2(x2)", "USER": "ann"}
        done = subprocess.run(
            ["bash", self.folder / "site" / "jobscripts" / "train.sbatch", "x.yaml"],
            cwd=self.folder,
            env={"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", **job, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout

    def starts(self) -> list[str]:
        return (self.folder / "program.log").read_text(encoding="utf-8").splitlines()

    def requeued(self) -> bool:
        return (self.folder / "requeued").exists()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "config").touch()
    (tmp_path / "nodes").write_text("n1\nn2\n", encoding="utf-8")
    site = render("generic_slurm", tmp_path / "site")
    (site / "env").unlink()
    (site / "env").mkdir()
    (site / "env" / "bin").symlink_to(tmp_path / "bin")
    desk.script("srun", SRUN)
    desk.script("squeue", "#!/bin/bash\n[[ $* != *%N* ]] || echo nodes\n")
    desk.script("scontrol", "#!/bin/bash\n[[ $1 == show ]] && exec cat nodes\ntouch requeued\n")
    return desk


def test_a_killed_rank_on_the_same_nodes(desk: Desk) -> None:
    desk.program("((attempt > 0)) || kill -KILL $$\nexit 0\n")
    status, output = desk.run()
    assert status == 0, output
    first, second = desk.starts()
    assert first == "0  "
    attempt, nodes, said = second.split(" ", 2)
    assert (attempt, nodes) == ("1", "n1,n2")
    assert json.loads(said)["why"] == "a rank died (status 137)"
    said = (
        "a rank died (status 137): going on in this allocation (recovery 1) on n1 n2, 2 ranks each"
    )
    assert f"{said}, grid.mode=hybrid grid.sample_ranks=2" in output
    called = (desk.folder / "srun.log").read_text(encoding="utf-8")
    assert "--overlap --nodes=2 --ntasks=4 --ntasks-per-node=2 --nodelist=n1,n2 | bash" in called
    assert "train x.yaml grid.mode=hybrid grid.sample_ranks=2 --default" in called
    assert not desk.requeued()


def test_a_node_that_slurm_took_away(desk: Desk) -> None:
    desk.program("((attempt > 0)) || { echo n1 >nodes; kill -KILL $$; }\nexit 0\n")
    status, output = desk.run()
    assert status == 0, output
    assert desk.starts()[1].startswith("1 n1 ")
    assert "node lost: n2: going on in this allocation" in output


def test_a_node_that_does_not_answer(desk: Desk) -> None:
    """Slurm still lists it."""
    desk.program("((attempt > 0)) || { echo n2 >frozen; kill -KILL $$; }\nexit 0\n")
    status, output = desk.run()
    assert status == 0, output
    assert desk.starts()[1].startswith("1 n1 ")


def test_nodes_that_are_all_slow_are_not_taken_for_dead(desk: Desk) -> None:
    """The one that answers first is the measure: it runs this script, and waits for Slurm, too."""
    (desk.folder / "slow").write_text("n1 4\nn2 8\n", encoding="utf-8")
    desk.program("((attempt > 0)) || kill -KILL $$\nexit 0\n")
    status, output = desk.run()
    assert status == 0, output
    assert desk.starts()[1].startswith("1 n1,n2 "), output


def test_a_busy_slurm_is_asked_again(desk: Desk) -> None:
    """``squeue`` times out twice at each question, ``scontrol requeue`` once."""
    late = """#!/bin/bash
echo >>asked-$1
(($(wc -l <asked-$1) % 3 == 0)) || { echo "error: Socket timed out" >&2; exit 1; }
[[ $* != *%N* ]] || echo nodes
"""
    desk.script("squeue", late)
    desk.program("((attempt > 0)) && exit 85; kill -KILL $$\n")
    requeue = "[[ -f asked-requeue ]] && exec touch requeued\ntouch asked-requeue; exit 1\n"
    desk.script("scontrol", f"#!/bin/bash\n[[ $1 == show ]] && exec cat nodes\n{requeue}")
    status, output = desk.run()
    assert status == 0, output
    assert desk.starts()[1].startswith("1 n1,n2 "), output
    assert desk.requeued()
    assert "error: Socket timed out" in output


def test_a_slurm_that_says_nothing_is_no_lost_node(desk: Desk) -> None:
    """Those that the job began with are asked themselves."""
    desk.script("squeue", "#!/bin/bash\nexit 1\n")
    desk.program("((attempt > 0)) || kill -KILL $$\nexit 0\n")
    status, output = desk.run()
    assert status == 0, output
    assert desk.starts()[1].startswith("1 n1,n2 "), output


def test_a_traceback_counts_where_a_node_is_lost(desk: Desk) -> None:
    """Ranks that lose the connection to it fail so; with all nodes there it is the program's."""
    desk.program("((attempt > 0)) || { echo n1 >nodes; exit 1; }\nexit 0\n")
    assert desk.run()[0] == 0
    (desk.folder / "nodes").write_text("n1\nn2\n", encoding="utf-8")
    desk.program("exit 1\n")
    assert desk.run()[0] == 1
    assert len(desk.starts()) == 3


@pytest.mark.parametrize("status", [1, 2])
def test_what_the_program_refuses_is_not_tried_again(desk: Desk, status: int) -> None:
    desk.program(f"exit {status}\n")
    assert desk.run()[0] == status
    assert len(desk.starts()) == 1
    assert not desk.requeued()


def test_a_stuck_rank_whose_node_holds_srun(desk: Desk) -> None:
    desk.program('((attempt > 0)) || { echo 86 >"$HPC_BNN_NOTE"; exec sleep 25; }\nexit 0\n')
    status, output = desk.run()
    assert status == 0, output
    assert "srun waits for a node that does not answer: ended" in output
    assert not list((desk.folder / "runs" / "x").glob(".requeue*"))
    assert "a rank was stuck: going on in this allocation" in output


def test_a_node_that_froze_is_asked_once(desk: Desk) -> None:
    """While srun still waits for it: what that takes is the larger part of the pause."""
    freeze = 'echo n2 >frozen; echo 86 >"$HPC_BNN_NOTE"; exec sleep 25'
    desk.program(f"((attempt > 0)) || {{ {freeze}; }}\nexit 0\n")
    status, output = desk.run()
    assert status == 0, output
    second = desk.starts()[1]
    assert second.startswith("1 n1 "), output
    assert json.loads(second.split(" ", 2)[2])["why"] == "node lost: n2"
    asked = (desk.folder / "srun.log").read_text(encoding="utf-8").count("nvidia-smi -L")
    assert asked == 2, output


def test_no_node_that_answers(desk: Desk) -> None:
    desk.program(": >nodes; kill -KILL $$\n")
    status, output = desk.run()
    assert status == 0, output
    assert "a rank died (status 137), and no node of this allocation answers: requeueing" in output
    assert desk.requeued()


def test_as_often_as_max_restarts_says(desk: Desk) -> None:
    desk.program('echo "{}" >>runs/x/restarts.jsonl; kill -KILL $$\n')
    status, output = desk.run(MAX_RESTARTS="5", SLURM_RESTART_COUNT="2")
    assert status == 137
    assert len(desk.starts()) == 4
    assert "a rank died (status 137) after 5 restarts (MAX_RESTARTS): given up" in output
    assert not desk.requeued()


def test_a_fault_at_every_start(desk: Desk) -> None:
    """Such as too little memory: the first may be the end of a good start, the others made none."""
    desk.program("kill -KILL $$\n")
    status, output = desk.run()
    assert status == 137
    assert len(desk.starts()) == 3
    assert "a rank died (status 137), 2 times before its first step: given up" in output


def test_nothing_is_tried_again_that_never_began(desk: Desk) -> None:
    (desk.folder / "config").unlink()
    desk.program("rm -f runs/x/config.yaml; kill -KILL $$\n")
    assert desk.run()[0] == 137
    assert len(desk.starts()) == 1
