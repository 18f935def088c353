"""The command line before anything is done: help, misspelt words, how much is said."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_bnn.cli.arguments import command_names, parse


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("train", "demo.yaml", "--runs", "x"),
            "hpc-bnn train: error: unknown option --runs; did you mean --run?",
        ),
        (
            ("train", "demo.yaml", "--run", "x", "--resum=1", "--deflt", "a=1"),
            "hpc-bnn train: error: unknown option --deflt; did you mean --default?",
        ),
        (
            ("data", "statistics", "x", "--step-hour", "6", "--strat", "2001"),
            "hpc-bnn data statistics: error: unknown option --strat; did you mean --start?",
        ),
        (  # nothing is near: two dashes make no options alike
            ("evaluate", "--runs", "x"),
            "hpc-bnn evaluate: error: unrecognized arguments: --runs",
        ),
        (
            ("evaluate", "x", "--zzz"),
            "hpc-bnn evaluate: error: unrecognized arguments: --zzz",
        ),
        (
            ("train", "demo.yaml", "--run", "x", "steps"),
            "hpc-bnn train: error: unrecognized arguments: steps",
        ),
    ],
)
def test_what_may_have_been_meant(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("forecast", "run", "-o", "y.nc/"),
            "'y.nc/': ends as a folder does and is called .nc as a file is: leave the slash out",
        ),
        (("predict", "run", "-o", "out.csv/"), "'out.csv/': ends as a folder does"),
        (("report", "run", "-o", "pages/"), "'pages/': is a folder: expected the path of a file"),
        (("report", "run", "-o", ""), "the path is empty: expected that of a file"),
        (("forecast", "run", "-o", ""), "the path is empty: expected that of a file or a folder"),
    ],
)
def test_an_output_is_a_file_or_a_folder(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(capsys, *words)


def test_a_folder_may_have_a_slash_behind_it() -> None:
    assert parse(("forecast", "run", "-o", "forecasts/")).output == Path("forecasts")
    assert parse(("forecast", "run", "-o", "v1.2/")).output == Path("v1.2")


def test_starts_are_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("forecast", "run", "-o", "x.nc", "--starts", "a/b/1d", "--starts", "c/d/1d")
    assert "--starts: is given twice: give one FIRST/LAST/STEP" in refused(capsys, *words)


def test_a_misspelt_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "trian", "x").endswith("; did you mean train?")
    assert refused(capsys, "data", "ingset", "x").endswith("; did you mean ingest?")


@pytest.mark.parametrize("words", [(), ("data",), ("scaling",)])
def test_a_command_alone_shows_what_there_is(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert out.startswith(" ".join(["usage: hpc-bnn", *words, "[-h]"]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("evaluate", "x"), 0),
        (("evaluate", "x", "-q"), -1),
        (("-q", "evaluate", "x"), -1),
        (("evaluate", "--verbose", "x"), 1),
        (("data", "check", "x", "-v"), 1),
    ],
)
def test_how_much_is_said(words: tuple[str, ...], expected: int) -> None:
    assert parse(words).verbosity == expected


def test_the_words_of_a_job_are_left_alone() -> None:
    options = parse(("-v", "run", "-n", "4", "train", "demo.yaml", "--run", "x", "-q", "--foo"))
    assert (options.command, options.ranks, options.verbosity) == ("run", 4, 1)
    assert options.words == ["train", "demo.yaml", "--run", "x", "-q", "--foo"]
    assert parse(("run", "-n", "2", "--", "my.py", "-n", "3")).words[-3:] == ["my.py", "-n", "3"]


def test_all_commands_have_a_name() -> None:
    assert {"run", "train", "evaluate", "data", "help"} <= set(command_names())


def test_help_is_there_at_once_and_in_no_colour() -> None:
    """At most 0.3 s of CPU; colours only on a terminal."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "hpc_bnn", "--help"], capture_output=True, text=True, timeout=60
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu <= 0.3


def test_no_color_is_obeyed_on_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    mine, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "hpc_bnn", "--help"],
        stdout=theirs,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"},
        check=True,
        timeout=60,
    )
    assert b"usage: hpc-bnn" in (said := os.read(mine, 100_000))
    assert b"\x1b" not in said
    os.close(theirs)
    os.close(mine)


def test_the_versions_of_the_stack() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpc_bnn", "--version"], capture_output=True, text=True, timeout=120
    )
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, done.stderr
    assert next(iter(lines)) == "hpc_bnn"
    assert {"python", "torch", "mpi"} <= set(lines)
