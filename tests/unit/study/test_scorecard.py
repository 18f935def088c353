"""The scorecard of a page about several runs, and the same on a terminal."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from report_runs import FIELDS, write_run

from hpc_bnn.cli import program as cli
from hpc_bnn.fields.start_scores_file import write_start_scores
from hpc_bnn.study.report.page import write_report
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS, StartScores

STARTS, LEADS, NAMES = 40, (24.0, 48.0, 72.0), ("z500", "t2m")


def scores(factor: torch.Tensor, *, seed: int) -> StartScores:
    """Hard and easy starts that all runs share, and ``factor`` (3, 2) of a run."""
    shared = 2 + torch.arange(STARTS, dtype=torch.float64).mul(0.9).sin()
    noise = torch.randn(STARTS, 3, 2, generator=torch.Generator().manual_seed(seed)).double()
    values = (shared[:, None, None] + 0.02 * noise) * factor
    fixed = shared[:, None, None].expand(STARTS, 3, 2).contiguous()
    held = {name: fixed if "persistence" in name else values for name in COLUMNS}
    held |= {name: torch.zeros(STARTS, 3, 2, 0).double() for name in EVENT_COLUMNS}
    return StartScores(86_400 * torch.arange(STARTS), LEADS, NAMES, ("m2 s-2", "K"), (), 10, held)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run b is better in z500 at 24 h, worse in t2m at 72 h, and as good elsewhere."""
    folder = tmp_path_factory.mktemp("runs")
    factor = torch.ones(3, 2).double()
    written = []
    for seed, name in enumerate(("a", "b")):
        run = write_run(folder / name, evaluation=FIELDS)
        write_start_scores(RunFolder(run).evaluation_starts, scores(factor, seed=seed))
        written.append(run)
        factor = factor.clone()
        factor[0, 0], factor[2, 1] = 0.9, 1.1
    return written


class Cells(HTMLParser):
    """The classes of all cells by their text."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.found = "", list[tuple[str, str, str]]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "td":
            given = dict(attrs)
            self.found.append(("", given.get("class") or "", given.get("title") or ""))

    def handle_data(self, data: str) -> None:
        if self.found and not self.found[-1][0]:
            self.found[-1] = (data.strip(), *self.found[-1][1:])


def test_colours_are_marks_too(runs: list[Path], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_report(runs, page)
    text = page.read_text(encoding="utf-8")
    section = text[text.index('<section id="scorecard">') : text.index('<section id="scores">')]
    cells = Cells()
    cells.feed(section)
    better = [cell for cell in cells.found if "better" in cell[1]]
    worse = [cell for cell in cells.found if "worse" in cell[1]]
    assert [cell[0][0] for cell in better] == ["\u25b2"] * 2  # RMSE and CRPS
    assert [cell[0][0] for cell in worse] == ["\u25bc"] * 2
    assert sum(cell[0].startswith("\u2248") for cell in cells.found) == 8
    assert better[1][0].startswith("\u25b2 -10.") or better[1][0].startswith("\u25b2 -9.")
    assert "m\u00b2 s\u207b\u00b2; p = " in better[1][2] and "blocks of" in better[1][2]
    assert "b against a, over 40 start times: better in 2 and worse in 2 of 12 cells" in section


def test_the_terminal_has_the_same_table(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", *map(str, runs), "-o", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    title = "CRPS, change from a to b in % (B better, W worse, = no difference, ? unknown):"
    at = lines.index(title)
    assert lines[at + 1].split() == ["24", "h", "48", "h", "72", "h"]
    z500, t2m = lines[at + 2].split(), lines[at + 3].split()
    assert (z500[0], z500[1::2]) == ("z500", ["B", "=", "="])
    assert (t2m[0], t2m[1::2]) == ("t2m", ["=", "=", "W"])
    assert -11 < float(z500[2]) < -9 and 9 < float(t2m[6]) < 11


def test_what_cannot_be_compared_is_named(runs: list[Path], tmp_path: Path) -> None:
    bare = write_run(tmp_path / "bare", evaluation=FIELDS)
    lines = list[str]()
    write_report([runs[0], bare], tmp_path / "page.html", scorecard=lines)
    assert len(lines) == 1 and "evaluation_starts.nc: no such file; hpc-bnn evaluate" in lines[0]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "bare against a: " in page
    later = scores(torch.ones(3, 2).double(), seed=0)
    object.__setattr__(later, "starts", later.starts + 10**9)
    write_start_scores(RunFolder(bare).evaluation_starts, later)
    lines.clear()
    write_report([runs[0], bare], tmp_path / "page.html", scorecard=lines)
    assert "a and bare have no start time in common (a: 40 from 1970-01-01" in lines[0]


def test_images_and_series_have_no_scores_of_single_examples(tmp_path: Path) -> None:
    pair = [write_run(tmp_path / name) for name in ("a", "b")]
    lines = list[str]()
    write_report(pair, tmp_path / "page.html", scorecard=lines)
    said = "b against a: evaluate keeps no scores of single examples of images and series, so "
    assert lines == [f"{said}nothing is said of chance; several seeds of each run tell it"]


def test_a_single_run_has_no_scorecard(runs: list[Path], tmp_path: Path) -> None:
    write_report(runs[:1], tmp_path / "page.html")
    assert 'id="scorecard"' not in (tmp_path / "page.html").read_text(encoding="utf-8")
