"""The blocks of README and guide, run as a reader would: page by page, in their order."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch import Ended, run, run_here
from PIL import Image

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "hpc_bnn" / "guide"
# Commands that have a test of their own, or need a cluster, a download or a reader's files.
ELSEWHERE = ("scaling", "doctor", "data request")
READERS = ("$", "runs/load", "photos")
SHORT = ["train.steps=2", "train.validate_every=0", "posterior.predict_samples=4"]
WEATHER = ["data.validation=[2002-01-01, 2002-01-10]", "data.test=[2002-12-20, 2002-12-31]"]
SPLITS = ["data.train=[2001-01-01, 2001-02-28]", *WEATHER, "evaluation.starts=2"]
SMALL = [  # the network and the channels of the toy
    *(
        "data.variables=[t2m, z]",
        "data.levels=[500]",
        "data.static=[lsm]",
        "loss.channel_weights={}",
    ),
    *("model.width=16", "model.depths=[2, 0, 0, 2]", "model.window=[2, 8]", "train.epochs=0"),
    *("train.batch_size=2", "train.warmup_steps=0"),
]
PAGES = {
    "README": ROOT / "README.md",
    "commands": GUIDE / "commands.md",
    "images, posteriors": GUIDE / "images.md",
    "weather": GUIDE / "weather.md",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of a page that needs nothing but this machine."""
    text = "".join(blocks(page, "bash")).replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        foreign = any(mark in line for mark in READERS)
        foreign |= " ".join(words[1:3]).startswith(ELSEWHERE)
        if words[:1] == ["hpc-bnn"] and not foreign:
            yield words


def shortened(words: list[str]) -> list[str]:
    """Return the words of a command of ``hpc-bnn``, of two steps and few scores only."""
    if not {"train", "scan"} & set(words[:4]) or "--estimate" in words:
        return words
    if "swin_dropout_crps.yaml" in words:
        return [*words, *SHORT, *SPLITS, *SMALL]
    return [*words, *SHORT, *(WEATHER if "weather.yaml" in words else [])]


def follow(words: list[str], cwd: Path) -> Ended:
    if words[0] == "run":  # starts ranks of its own
        return run("-m", "hpc_bnn", *words, ranks=0, cwd=cwd)
    return run_here(*words, cwd=cwd)


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_a_page_end_well(page: str, tmp_path: Path) -> None:
    files = [PAGES[page]] + ([GUIDE / "posteriors.md"] if "posteriors" in page else [])
    if page == "weather":
        (settings,) = blocks(files[0], "yaml")
        (tmp_path / "weather.yaml").write_text(settings, encoding="utf-8")
    (tmp_path / "scans").mkdir()
    Image.new("L", (8, 8), 90).save(tmp_path / "scans" / "grey.png")
    told = [words for file in files for words in commands(file)]
    assert told
    for words in told:
        ended = follow(shortened(words[1:]), tmp_path)
        print(shlex.join(words), f"{ended.seconds:.1f} s")  # what pytest shows where one fails
        assert ended.status == 0, f"{shlex.join(words)}\n{ended.text}"


def test_the_script_of_the_readme_learns(tmp_path: Path) -> None:
    scripts = [block for block in blocks(ROOT / "README.md", "python") if "hb.start" in block]
    (tmp_path / "script.py").write_text(scripts[0], encoding="utf-8")
    (script,) = scripts
    losses = []
    for ranks in (0, 2):
        ended = run(tmp_path / "script.py", ranks=ranks, cwd=tmp_path)
        assert ended.status == 0, ended.text
        losses.append([float(line.split()[1]) for line in ended.out.splitlines()])
    assert len(losses[0]) == 5 and losses[0][-1] < losses[0][0], script
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
