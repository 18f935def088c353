"""``hpc-bnn run -n 2``: ranks that are started with one command, and stopped with one Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from launch import LIMIT_S, Ended
from tiny_job import Train

from hpc_bnn.train.run.checkpoint import available

HERE = Path(__file__).parent
# The noise of a launcher that takes ends in good order for failures.
NOISE = ("prterun", "MPI_ABORT", "Traceback", "non-zero")
ASKED = "hpc-bnn run: asked all ranks to stop; Ctrl-C again ends them at once\n"


def started(*words: str | Path, until: str = "", cwd: Path) -> Ended:
    """Start two ranks; where one says ``until``, press Ctrl-C."""
    environment = {name: value for name, value in os.environ.items() if "AS_ROOT" not in name}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpc_bnn", "run", "-n", "2", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=cwd, env=environment, start_new_session=True,
    )  # fmt: skip
    out = ""
    if until:
        assert process.stdout is not None
        for line in process.stdout:
            out += line
            if line.startswith(until):
                break
        os.killpg(process.pid, signal.SIGINT)
    try:
        rest, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        raise
    ended = Ended(process.returncode, out + rest, err, 0.0)
    assert not any(word in ended.err for word in NOISE), ended.text
    return ended


def test_a_training_is_stopped_and_goes_on(train: Train, config: Path, tmp_path: Path) -> None:
    """In the validation behind its only step."""
    folder = tmp_path / "run"
    command = ("train", config, "train.steps=1", "data.length=1800", "--run", folder)
    slow = (HERE / "failing_rank.py", "slow", "0,1")
    ended = started(*slow, *command, until="validating", cwd=tmp_path)
    assert ended.status == 85, ended.text
    said = "hpc-bnn train: signal SIGUSR2: stopped after step 1 of 1, with a checkpoint; run the"
    assert ended.err.count(said) == ended.err.count("hpc-bnn train: ") == 1, ended.text
    assert ended.err.count(ASKED) == 1, ended.text
    assert [path.name for path in available(folder / "checkpoints")] == ["step-00000001.pt"]
    assert started(*command, "--resume", cwd=tmp_path).status == 0
    assert (folder / "summary.json").exists()
    ended = started(*slow, "evaluate", folder, until="validating", cwd=tmp_path)
    assert ended.status == 130, ended.text
    assert ended.err.count("hpc-bnn evaluate: interrupted\n") == 1, ended.text
    assert not (folder / "evaluation.json").exists()


def test_a_mistake_of_all_ranks_is_told_once(config: Path, tmp_path: Path) -> None:
    ended = started("train", config, "train.step=1", "--run", "run", cwd=tmp_path)
    assert ended.status == 2, ended.text
    assert ended.err.count("train.step: unknown key; did you mean steps?") == 1, ended.text


def test_a_script_of_a_user(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    ended = started(HERE / "stopping_script.py", state, until="training", cwd=tmp_path)
    assert (ended.status, ended.out) == (0, "training\nsignal SIGUSR2: saved\n"), ended.text
    assert state.exists()


def test_words_that_a_shell_would_expand(tmp_path: Path) -> None:
    words = [
        "a=$(touch EXPANDED)", "`touch EXPANDED`; touch EXPANDED &", "it's \"b\" \\", "one\ntwo\n",
        "a\tb", "* {a,b} $HOME ~", "M\u00fcnchen \U0001f327", "",
    ]  # fmt: skip
    script = tmp_path / "my $(touch EXPANDED) script.py"
    script.write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n", encoding="utf-8")
    ended = started(script, *words, cwd=tmp_path)
    assert ended.status == 0, ended.text
    assert [json.loads(line) for line in ended.out.splitlines()] == [words, words]
    assert not (tmp_path / "EXPANDED").exists()
