"""The page: sections of blocks, rendered into one HTML file that asks for nothing else."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from markupsafe import Markup

import hpc_bnn
from hpc_bnn.config import dump_settings
from hpc_bnn.files import refuse_foreign, write_whole
from hpc_bnn.study.plan_file import read_plan
from hpc_bnn.study.report.blocks import Block, Cell, Details, Notes, Section, Table
from hpc_bnn.study.report.calibration import calibration_blocks
from hpc_bnn.study.report.cost import cost_blocks, provenance_blocks
from hpc_bnn.study.report.curves import training_charts, validation_charts
from hpc_bnn.study.report.differences import between_runs, from_defaults
from hpc_bnn.study.report.folders import Run, kind_of, read_runs
from hpc_bnn.study.report.pictures import map_blocks, other_pictures
from hpc_bnn.study.report.scorecard import Pair, compare_runs, scorecard_blocks, scorecard_lines
from hpc_bnn.study.report.scores import is_of_fields, score_blocks
from hpc_bnn.study.report.study_page import study_sections

HERE = Path(__file__).parent
MARK = '<meta name="generator" content="hpc_bnn report'
SUFFIXES = (".html", ".htm")
HEAD_BYTES = 2000  # of a page, in which its mark stands


def write_report(
    folders: Sequence[Path], output: Path, *, scorecard: list[str] | None = None
) -> tuple[str, ...]:
    """Write the page of some runs, or of a study; return the problems that it names.

    scorecard: gets the lines of text that say which run is better where.

    Raises
    ------
    ValueError
        If a folder is neither a run nor a study, runs and studies are mixed, or the output has the
        name of another format.
    OSError
        If a folder is not there, or the output cannot be written or is no report.
    """
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"-o {output}: a report is a page of HTML: expected a path that ends in "
            f"{' or '.join(SUFFIXES)}, such as {output.with_suffix('.html')}"
        )
    refuse_foreign(output, "report", is_report)
    kinds = {folder: kind_of(folder) for folder in folders}
    studies = [folder for folder, kind in kinds.items() if kind == "study"]
    if studies and len(folders) > 1:
        raise ValueError(
            f"{studies[0]}: is a scaling study, which has a page of its own; give runs only, or "
            "this study only"
        )
    if studies:
        plan = read_plan(studies[0])
        title, about = f"Scaling study {plan.folder.resolve().name}", str(plan.folder)
        sections, problems = study_sections(plan)
    else:
        runs = read_runs(folders)
        title = "Run " + runs[0].name if len(runs) == 1 else f"{len(runs)} runs side by side"
        about = ", ".join(str(run.path) for run in runs)
        pairs = compare_runs(runs)
        if scorecard is not None:
            scorecard += scorecard_lines(pairs)
        sections, problems = run_sections(runs, pairs)
    text = render(title, about, sections)
    refuse_foreign(output, "report", is_report)
    write_whole(output, text.encode())
    return problems


def run_sections(
    runs: Sequence[Run], pairs: Sequence[Pair]
) -> tuple[list[Section], tuple[str, ...]]:
    """Return the sections of a page about runs and pairs of them, and what is wrong with these.

    What a section cannot show, because a file holds something else than such files do, is a problem
    too.
    """
    problems = [problem for run in runs for problem in run.problems]
    units = _units_of_validation(runs)
    parts: dict[tuple[str, str], Callable[[], Sequence[Block]]] = {
        ("scorecard", "Which run is better where"): lambda: scorecard_blocks(pairs),
        ("scores", "Scores of the test split"): lambda: score_blocks(runs),
        ("curves", "Curves"): lambda: [*training_charts(runs), *validation_charts(runs, units)],
        ("calibration", "Calibration"): lambda: calibration_blocks(runs),
        ("maps", "Maps"): lambda: map_blocks(runs),
        ("pictures", "Pictures"): lambda: other_pictures(runs),
        ("cost", "Time and memory"): lambda: cost_blocks(runs),
        ("settings", "Settings"): lambda: _settings_blocks(runs),
        ("provenance", "Provenance"): lambda: provenance_blocks(runs),
    }
    sections = []
    for (name, title), blocks_of in parts.items():
        try:
            blocks = blocks_of()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            names = ", ".join(run.name for run in runs)
            problems.append(f"{names}: {title} cannot be shown: {type(error).__name__}: {error}")
            continue
        sections.append(Section(name, title, blocks))
    return [_overview(runs, problems), *sections], tuple(problems)


def render(title: str, about: str, sections: Sequence[Section]) -> str:
    """Return the page as text; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title,
        about=about,
        version=hpc_bnn.__version__,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        sections=[section for section in sections if section.blocks],
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
    )


def is_report(path: Path) -> bool:
    """Tell whether a file is a page that was made here."""
    with path.open("rb") as file:
        return MARK.encode() in file.read(HEAD_BYTES)


def _overview(runs: Sequence[Run], problems: Sequence[str]) -> Section:
    head = ("run", "data", "model", "posterior", "loss", "steps", "state")
    rows = []
    for run in runs:
        chosen = [
            Cell("-" if run.settings is None else getattr(run.settings, section).name)
            for section in ("data", "model", "posterior", "loss")
        ]
        state = "finished" if run.summary else "not finished"
        state += ", evaluated" if run.evaluation else ", not evaluated"
        rows.append([Cell(run.name), *chosen, Cell(str(run.steps), is_number=True), Cell(state)])
    blocks: list[Block] = [Table(head, rows)]
    return Section("overview", "Overview", [*blocks, *([Notes(problems)] if problems else ())])


def _settings_blocks(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = []
    if len(runs) > 1:
        table = between_runs(runs)
        same = Notes(["The settings of the runs are the same."])
        if table is None:
            blocks.append(same)
        else:
            blocks.append(Table(table.head, table.rows, "Settings that differ between the runs"))
    else:
        table = from_defaults(runs[0])
        if table is not None:
            blocks.append(Table(table.head, table.rows, "Settings that differ from their defaults"))
    for run in runs:
        if run.settings is not None:
            blocks.append(Details(f"All settings of {run.name}", dump_settings(run.settings)))
    return blocks


def _units_of_validation(runs: Sequence[Run]) -> str:
    """Return the units of validation scores: those of a series; fields are scored as normalised
    changes over one step.
    """
    units = {run.evaluation.get("units") for run in runs if not is_of_fields(run)}
    if any(is_of_fields(run) for run in runs):
        return "normalised change" if not units else ""
    held = units.pop() if len(units) == 1 else ""
    return held if isinstance(held, str) else ""
