"""The page of runs and studies: what it shows, and what it names instead of failing."""

import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fabricated import make_runs, plan
from report_runs import FIELDS, LEADS, OF_Z500, SERIES, SUMMARY, png, write_run

from hpc_bnn.study.report.page import is_report, write_report

MAPS = {f"map_z500_{hours:g}h.png": png(int(hours)) for hours in LEADS}


class Text(HTMLParser):
    """Collects tables as lists of rows, text, and what tags refer to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.best: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._cell: list[str] | None = None
        self._is_best = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.tags.append(tag)
        self.references += [str(held[key]) for key in ("src", "href") if held.get(key)]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell, self._is_best = [], "best" in str(held.get("class"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            text = "".join(self._cell)
            self.tables[-1][-1].append(text)
            self.best += [text] if self._is_best else []
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    def row(self, first: str) -> list[str]:
        """Return the one row that begins with a text."""
        rows = [row for table in self.tables for row in table if row and row[0] == first]
        assert len(rows) == 1, (first, rows)
        return rows[0]

    def cells_without_meaning(self) -> list[str]:
        """Return the cells of tables that hold what only a program understands."""
        cells = [cell for table in self.tables for row in table for cell in row]
        return [cell for cell in cells if re.search(r"\b(nan|inf|None|null)\b", cell)]


def page_of(tmp_path: Path, *folders: Path) -> tuple[Text, str, tuple[str, ...]]:
    problems = write_report(folders, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    return Text(text), text, problems


def test_a_run_shows_what_its_files_hold(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", pictures={"forecast.png": png(9)}, train={"lr": 0.004})
    page, _, problems = page_of(tmp_path, run)
    assert problems == ()
    assert page.row("RMSE of the mean [MW]") == ["RMSE of the mean [MW]", "2.500", "2.000"]
    assert page.row("CRPS [MW]") == ["CRPS [MW]", "1.250", "2.250"]
    assert page.row("coverage of the 90 % interval, nominal 0.9")[1:] == ["0.8000", "-"]
    assert page.row("train.lr") == ["train.lr", "0.004", "0.001"]
    assert page.row("model.hidden") == ["model.hidden", "[8]", "[128, 128]"]
    assert page.row("data.name") == ["data.name", "synthetic_series", "required"]
    assert page.row("forward") == ["forward", "2.00", "40.8"]
    assert page.row("time of a step, median [ms]")[1] == "4.000"
    assert page.row("peak memory of the largest rank")[1] == "300.0 MiB"
    assert page.row("its estimate (difference)")[1] == "330.0 MiB (+10%)"
    assert page.row("grid")[1] == "2 sample x 3 data ranks on 1 node"
    assert page.row("weight samples of a step, K")[1] == "12"
    assert page.row("version: torch")[1] == "2.13.0"
    assert (
        "the naive forecast 'last value' has the lower RMSE of the mean: 2.000 against 2.500"
        in page.text
    )
    for title in ("load: CRPS [MW]", "objective, of an example", "PIT of the truth", "KL [nats]"):
        assert title in page.text
    assert "energy" not in page.text, "there is none"
    assert page.cells_without_meaning() == []


def test_settings_that_are_the_default_are_left_out(tmp_path: Path) -> None:
    page, _, _ = page_of(tmp_path, write_run(tmp_path / "run"))
    keys = {row[0] for table in page.tables for row in table}
    assert not keys & {"train.lr", "train.precision", "optimizer.name", "posterior.prior_sigma"}


def test_fields_have_scores_by_lead_time_beside_naive_ones_and_maps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=FIELDS, pictures=MAPS)
    page, text, _ = page_of(tmp_path, run)
    first, last = (table for table in page.tables if table[0][0] == "variable")
    unit = "[m\u00b2 s\u207b\u00b2]"
    assert first[1] == ["z500", f"RMSE of the mean {unit}", "100.0", "150.0", "310.0"]
    assert last[2] == ["z500", f"CRPS {unit}", "140.0", "99.00", "170.0"]
    assert last[3] == ["z500", "anomaly correlation", "0.7000", "0.1000", "-"]
    assert 'data-labels="24 h|48 h|72 h"' in text
    assert len(re.findall(r"<img src=.data:image/png;base64,", text)) == 3
    for title in ("z500, 24 h: density relative to uniform", "z500: spread-skill ratio"):
        assert title in page.text


def test_runs_stand_side_by_side_and_the_better_one_is_marked(tmp_path: Path) -> None:
    other = {**SERIES, "scores": {"points": 40.0, "rmse": 2.4, "crps": 1.3, "coverage_90": 0.97}}
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", evaluation=other, train={"lr": 0.01}, model={"hidden": [4]}),
    ]
    page, _, problems = page_of(tmp_path, *runs)
    assert problems == ()
    assert page.row("score") == ["score", "a", "b", "last value"]
    assert page.best == ["2.400", "1.250", "0.9700"], "nearer to 0.9, not larger"
    assert page.row("setting") == ["setting", "a", "b"]
    assert page.row("train.lr") == ["train.lr", "0.001", "0.01"]
    assert page.row("model.hidden") == ["model.hidden", "[8]", "[4]"]
    differing = next(table for table in page.tables if table[0][0] == "setting")
    assert len(differing) == 3
    assert page.row("coverage of the 90 % interval, nominal 0.9")[2] == "0.9700"


def test_runs_that_were_scored_on_other_data_are_not_compared(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", evaluation={**SERIES, "data": "x"}),
    ]
    page, _, _ = page_of(tmp_path, *runs)
    assert page.best == []
    assert "scored on different data (a: synthetic_series; b: x)" in page.text


def test_runs_of_one_name_are_told_apart_by_their_path(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / "run") for name in "ab"]
    page, _, _ = page_of(tmp_path, *runs)
    assert page.row("score")[1:3] == [str(run) for run in runs]
    with pytest.raises(ValueError, match="is given twice"):
        write_report([runs[0], runs[0]], tmp_path / "page.html")


def test_values_stay_text(tmp_path: Path) -> None:
    trap = "<script>alert(1)</script>"
    held = {**SERIES, "units": trap, "channels": {trap: SERIES["channels"]["load"]}, "data": trap}
    run = write_run(
        tmp_path / "run", evaluation=held, data={"name": "series", "path": trap, "history": 12}
    )
    page, text, _ = page_of(tmp_path, run)
    assert page.tags.count("script") == 1
    assert trap not in text
    assert trap in page.text
    assert page.row("data.path")[1] == trap


def test_nothing_is_asked_of_anyone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation=FIELDS, pictures=MAPS)
    page, text, _ = page_of(tmp_path, run)
    assert all(link.startswith(("data:", "#")) for link in page.references)
    assert not re.search(r"https?:|@import|url\(|<link(?! rel=.icon. href=.data:)", text)
    assert not set(page.tags) & {"iframe", "object", "embed", "base"}


def test_what_is_unfinished_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=4, summary=None, evaluation=None)
    page, _, problems = page_of(tmp_path, run)
    unfinished, unscored = problems
    assert unfinished == "run: is not finished: 4 of 6 steps; go on with --resume"
    assert unscored.startswith("run: has no scores of the test split: hpc-bnn evaluate")
    assert all(problem in page.text for problem in problems)
    assert page.tables[0][1][-1] == "not finished, not evaluated"
    assert "objective, of an example" in page.text


def test_scores_of_an_earlier_step_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", evaluation={**SERIES, "step": 4})
    _, _, problems = page_of(tmp_path, run)
    assert "the scores are those of step 4, the run has 6" in problems[0]


def test_scores_of_the_best_step_are_no_problem(tmp_path: Path) -> None:
    held = {**SERIES, "step": 4}
    run = write_run(tmp_path / "run", evaluation=held, train={"keep_best": True})
    page, _, problems = page_of(tmp_path, run)
    assert problems == ()
    assert page.row("step of the scores")[1] == "4"


def test_a_run_and_a_study_take_little_time(tmp_path: Path) -> None:
    """CPU seconds of the whole command, of a process of its own."""
    run = write_run(tmp_path / "run", evaluation=FIELDS, pictures=MAPS, steps=5000)
    made = plan(tmp_path / "study")
    make_runs(made)
    for folder in (run, made.folder):
        command = [sys.executable, "-m", "hpc_bnn", "report", folder, "-o", tmp_path / "page.html"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


BROKEN = {
    "config.yaml": ("train: {steps: [", "config.yaml"),
    "metrics.jsonl": ('{"step": 0, "loss": 1}\nnoise\n[1]\n{"step": 1, "loss": 2}\n', "line 2"),
    "summary.json": ("{", "summary.json: is no JSON"),
    "evaluation.json": ("[1, 2]", "evaluation.json: holds no JSON object"),
    "memory.json": ("\udcff\udcfe", "memory.json: is no JSON"),
    "plots/map_z500_24h.png": ("no picture", "map_z500_24h.png: is no whole PNG"),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_broken_file_is_named_and_the_rest_is_shown(tmp_path: Path, file: str) -> None:
    content, told = BROKEN[file]
    run = write_run(tmp_path / "run")
    (run / file).write_bytes(content.encode(errors="surrogateescape"))
    page, _, problems = page_of(tmp_path, run)
    assert any(told in problem for problem in problems), problems
    assert all(problem in page.text for problem in problems)
    assert "Provenance" in page.text


@pytest.mark.parametrize("file", ["config.yaml", "metrics.jsonl", "summary.json"])
def test_an_absent_file_is_named(tmp_path: Path, file: str) -> None:
    run = write_run(tmp_path / "run")
    (run / file).unlink()
    _, _, problems = page_of(tmp_path, run)
    assert len(problems) == 1
    assert "not finished" in problems[0] if file == "summary.json" else file in problems[0]


STRANGE: list[dict[str, Any]] = [
    {"scores": 3, "channels": [], "naive": "x", "lead_time_h": {}},
    {"lead_hours": "soon", "scores": {"z500": []}, "units": None, "step": "six"},
    {"lead_hours": LEADS, "scores": {"z500": {"rmse": [1], "rank_histogram": [[None, "x"]]}}},
    {"lead_hours": LEADS, "scores": {"z500": {**OF_Z500, "rmse": [None, 1e999, "x"]}}},
    {"reliability": {"confidence": [0.5, None], "accuracy": "x"}, "pit_counts": [0, 0]},
]


@pytest.mark.parametrize("evaluation", STRANGE)
@pytest.mark.parametrize("summary", [SUMMARY, {"steps": "x", "phases_s": 3, "grid": []}])
def test_values_of_another_kind_are_no_traceback(
    tmp_path: Path, evaluation: dict[str, Any], summary: dict[str, Any]
) -> None:
    run = write_run(tmp_path / "run", evaluation=evaluation, summary=summary)
    page, _, _ = page_of(tmp_path, run)
    assert "Overview" in page.text
    assert page.cells_without_meaning() == []


def test_a_study_shows_its_table_and_curves(tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made)
    page, _, problems = page_of(tmp_path, made.folder)
    assert problems == ()
    points = [table for table in page.tables if table[0][0] == "mode"]
    assert len(points) == 2
    assert points[0][1][:5] == ["local", "1", "1 x 1", "12", "12"]
    assert points[0][2][5] == "72.00"
    assert points[0][2][8:10] == ["2.000", "1.000"]
    for title in ("speed-up: K and B stay (strong)", "efficiency: K grows with the ranks (weak)"):
        assert title in page.text


def test_points_of_a_study_that_are_missing_or_mixed_are_named(tmp_path: Path) -> None:
    made = plan(tmp_path)
    page, _, problems = page_of(tmp_path, made.folder)
    assert len(problems) == len(made.points)
    assert page.row("runs finished")[1] == f"0 of {len(made.points)}"
    make_runs(made)
    point = made.points[0]
    path = made.run_folder(point).summary
    path.write_text(path.read_text().replace('"torch": "2"', '"torch": "3"'), encoding="utf-8")
    page, _, problems = page_of(tmp_path, made.folder)
    assert len(problems) == 1
    assert problems[0].startswith(f"mixed versions: 1 of {len(made.points)} points are not like")
    assert point.name in problems[0]


def test_folders_that_are_neither_are_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "first")
    made = plan(tmp_path / "study")
    output = tmp_path / "page.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        write_report([tmp_path / "nowhere"], output)
    with pytest.raises(ValueError, match="empty: neither a run"):
        write_report([tmp_path / "empty"], output)
    with pytest.raises(ValueError, match="it holds runs: first: give those"):
        write_report([tmp_path / "runs"], output)
    with pytest.raises(ValueError, match="is a scaling study, which has a page of its own"):
        write_report([run, made.folder], output)
    assert not output.exists()


def test_a_report_has_the_name_of_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("page.txt", "page", "page.pdf"):
        with pytest.raises(
            ValueError, match=rf"-o .*{name}: a report is a page of HTML.*page\.html"
        ):
            write_report([run], tmp_path / name)
        assert not (tmp_path / name).exists()
    write_report([run], tmp_path / "page.HTM")


def test_only_a_report_is_replaced(tmp_path: Path) -> None:
    run, output = write_run(tmp_path / "run"), tmp_path / "page.html"
    write_report([run], output)
    assert is_report(output)
    write_report([run], output)
    output.write_text("<p>mine</p>", encoding="utf-8")
    with pytest.raises(FileExistsError, match="no report of hpc-bnn"):
        write_report([run], output)
    assert output.read_text(encoding="utf-8") == "<p>mine</p>"
