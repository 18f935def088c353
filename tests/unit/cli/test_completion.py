"""What a shell completes: words of commands, and real shells that ask for them."""

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc_bnn.cli import completion_keys
from hpc_bnn.cli.completion_command import SCRIPTS, candidates
from hpc_bnn.cli.completion_keys import keys, values

LIMIT_S = 90.0


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keys are described once for all tests here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def may_become(line: str) -> list[str]:
    return candidates(line.split(" ")[1:])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hpc-bnn tra", ["train"]),
        ("hpc-bnn -q eva", ["evaluate"]),
        ("hpc-bnn data in", ["ingest"]),
        ("hpc-bnn train demo.yaml --res", ["--resume"]),
        ("hpc-bnn train demo", ["demo.yaml"]),
        ("hpc-bnn scaling plan scaling_l", ["scaling_local.yaml"]),
        ("hpc-bnn train scaling_l", []),
        ("hpc-bnn train demo.yaml demo", []),
        ("hpc-bnn train demo.yaml tr", ["train."]),
        ("hpc-bnn train demo.yaml train.lr", ["train.lr=", "train.lr_min="]),
        ("hpc-bnn train demo.yaml grid.mode=s", ["grid.mode=sample"]),
        ("hpc-bnn train demo.yaml posterior.name=gau", ["posterior.name=gaussian"]),
        ("hpc-bnn train demo.yaml model.recompute=t", ["model.recompute=true"]),
        ("hpc-bnn train demo.yaml data.transform.name=shi", ["data.transform.name=shift"]),
        ("hpc-bnn scan demo.yaml --try seed", ["seed="]),
        ("hpc-bnn run -n 4 tra", ["train"]),
        ("hpc-bnn run -n 4 train demo.yaml --res", ["--resume"]),
        ("hpc-bnn run -n ", []),
        ("hpc-bnn data toy x --format ", ["legacy", "new"]),
        ("hpc-bnn help clu", ["cluster"]),
        ("hpc-bnn settings post", ["posterior"]),
        ("hpc-bnn evaluate ", []),
        ("hpc-bnn evaluate runs/a posterior.predi", ["posterior.predict_samples="]),
        ("hpc-bnn nothing ", []),
    ],
)
def test_what_a_word_may_become(
    line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert may_become(line) == expected


def test_settings_files_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine/a.yaml", "mine/b.yml", "mine/c.txt", "mine.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert may_become("hpc-bnn train mi") == ["mine.yaml", "mine/"]
    assert may_become("hpc-bnn train mine/") == ["mine/a.yaml", "mine/b.yml"]
    assert may_become(f"hpc-bnn train {tmp_path}/mine.") == [f"{tmp_path}/mine.yaml"]


def test_keys_are_kept_until_the_package_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = []

    def words() -> list[str]:
        described.append(1)
        return ["train.lr=", "train.lr="]

    monkeypatch.setattr(completion_keys, "_words", words)
    place = {"XDG_CACHE_HOME": str(tmp_path)}
    assert keys(place) == keys(place) == ["train.lr="]
    assert len(described) == 1
    (kept,) = (tmp_path / "hpc_bnn").iterdir()
    os.utime(kept, (0, 0))
    assert keys(place) == ["train.lr="]
    assert len(described) == 2
    assert keys({"XDG_CACHE_HOME": str(kept)}) == ["train.lr="], "no folder can be made there"


def test_values_of_a_schema() -> None:
    assert values({"anyOf": [{"const": "auto"}, {"type": "integer"}]}) == ["auto"]
    assert values({"enum": ["a", 2]}) == ["a", "2"]
    assert values({"type": "boolean"}) == ["true", "false"]
    assert values({"type": "string"}) == []


def test_words_of_commands_need_no_torch() -> None:
    program = (
        "import sys; sys.argv[1:] = ['completion', 'words', 'tra']\n"
        "from hpc_bnn.__main__ import main; main(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "train\nFalse\n", done.stderr


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_scripts_are_shell(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    done = subprocess.run([shell, "-n"], input=SCRIPTS[shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
COMPINIT = {"bash": "", "zsh": "autoload -U compinit; compinit -u -D; "}


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_a_real_shell_completes(shell: str, tmp_path: Path) -> None:
    """What is typed, with a TAB behind each piece; the program says what it was started with."""
    pty = pytest.importorskip("pty")
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    program = tmp_path / "hpc-bnn"
    said = (
        f'[ "$1" = completion ] || {{ echo "got $*"; exit; }}\nexec "{sys.executable}" -m hpc_bnn'
    )
    program.write_text(f'#!/bin/sh\n{said} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    keys()  # described here: the shell need not wait
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ |= {"TERM": "dumb", "PS1": "$ ", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        os.execvp(START[shell][0], START[shell])
    try:
        setup = f'{COMPINIT[shell]}eval "$(hpc-bnn completion {shell})"; echo rea""dy\n'
        os.write(terminal, setup.encode())
        assert "ready" in until(terminal, "ready")
        os.write(terminal, b"hpc-bnn train demo.y\tgrid.mode=hy\t\r")
        expected = "got train demo.yaml grid.mode=hybrid"
        assert expected in until(terminal, expected)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)


def until(terminal: int, text: str) -> str:
    """Read what a terminal shows until it shows a text, or for too long."""
    shown, limit = "", time.monotonic() + LIMIT_S
    while text not in shown and time.monotonic() < limit:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown
