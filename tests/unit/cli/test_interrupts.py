"""Ctrl-C and kill in the midst of commands that have nothing to save: one line, a status, no
output that is half.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import SERIES, hpc_bnn, written
from toy_weather import toy_settings, write_small_toy

from hpc_bnn.cli.interrupts import Asked, listening
from hpc_bnn.parallel.control import END

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
SAID = {
    signal.SIGINT: (130, "interrupted"),
    signal.SIGTERM: (143, "ended by SIGTERM"),
    signal.SIGUSR1: (138, "ended by SIGUSR1"),
    signal.SIGUSR2: (140, "ended by SIGUSR2"),
}
WINDOW = ("--start", "2001-01-01", "--end", "2001-02-20", "--step-hours", "12")


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("interrupts") / "toy")


@pytest.fixture(scope="module")
def run(toy: Path) -> Path:
    config = written(toy.parent / "toy.yaml", toy_settings(toy))
    assert hpc_bnn("train", config, "train.validate_every=0", "--run", toy.parent / "run") == 0
    return toy.parent / "run"


def asking(number: signal.Signals, then: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a signal comes before."""

    def act(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), number)
        return then(*arguments, **options)

    return act


CASES = {
    "evaluate": ("hpc_bnn.train.score.rollout.Rollout.advance", ("evaluate", "{run}")),
    "data ingest": (
        "hpc_bnn.fields.pack.ingest._Job._write",
        ("data", "ingest", "{toy}", "-o", "{out}"),
    ),
    "data statistics": (
        "hpc_bnn.fields.statistics.tally",
        ("data", "statistics", "{toy}", *WINDOW, "--pack", "{out}", "-o", "{out}.nc"),
    ),
    "train": ("hpc_bnn.train.run.loop.build", ("train", "{run}/config.yaml", "--run", "{out}")),
}


# A training keeps in mind what a batch system sends, for its first step.
PAIRS = [(c, n) for c in CASES for n in SAID if c != "train" or n == signal.SIGINT]


@pytest.mark.parametrize(("command", "number"), PAIRS)
def test_one_line_and_a_status(
    command: str,
    number: signal.Signals,
    run: Path,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name, words = CASES[command]
    module, _, attribute = name.rpartition(".")
    owner: Any = pytest.importorskip(module.removesuffix(".Rollout").removesuffix("._Job"))
    for part in module.split(".")[len(owner.__name__.split(".")) :]:
        owner = getattr(owner, part)
    monkeypatch.setattr(owner, attribute, asking(number, getattr(owner, attribute)))
    places = {"run": run, "toy": toy, "out": tmp_path / "out"}
    status, text = SAID[number]
    assert hpc_bnn(*(str(word).format(**places) for word in words)) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == f"hpc-bnn {command}: {text}"
    assert err.count(f"hpc-bnn {command}: ") == 1
    assert not (run / "evaluation.json").exists()
    assert not (tmp_path / "out.nc").exists()


def test_a_second_interrupt_would_end_the_process() -> None:
    with pytest.raises(Asked, match="SIGINT") as asked, listening({}):
        os.kill(os.getpid(), signal.SIGINT)
    assert asked.value.status == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "nothing disturbs the end"


def test_a_launcher_asks_with_another_signal() -> None:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    with listening({}):
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN, "as a job script wants it"
    with pytest.raises(Asked, match="SIGINT") as asked, listening({END: "status"}):
        os.kill(os.getpid(), signal.SIGUSR2)
    assert asked.value.status == 130
    signal.signal(signal.SIGUSR2, before)


def test_what_is_undisturbed_leaves_no_trace() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with listening({END: "status"}):
        pass
    with pytest.raises(ValueError, match="mistake"), listening({}):
        raise ValueError("mistake")
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize("outcome", ["raised", "swallowed"])
def test_an_interrupt_while_torch_is_imported(tmp_path: Path, outcome: str) -> None:
    """A line as well; here the import itself is what is interrupted, and it may drop exceptions."""
    lines = ["import os, signal, time", "try:", "    os.kill(os.getpid(), signal.SIGINT)"]
    lines += ["    time.sleep(1.0)", "except KeyboardInterrupt:"]
    lines += ["    raise"] if outcome == "raised" else ["    pass", "raise ImportError('goes on')"]
    (tmp_path / "torch.py").write_text("\n".join(lines) + "\n")
    config = written(tmp_path / "tiny.yaml", SERIES)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    program = "import sys; from hpc_bnn.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", program, "train", config, "--run", tmp_path / "run"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "hpc-bnn train: interrupted\n")
