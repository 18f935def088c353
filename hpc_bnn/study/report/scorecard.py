"""Which of several runs is better where: a scorecard for the page, the same as text for a terminal.

Every later run is compared with the first, in pairs over the start times that both were scored on
(``hpc_bnn.verify.comparison``). A mark says what a colour does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hpc_bnn.fields.start_scores_file import read_start_scores
from hpc_bnn.study.report.blocks import Block, Cell, Notes, Table, number_text, unit_text
from hpc_bnn.study.report.folders import Run
from hpc_bnn.study.report.scores import is_of_fields
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.verify import comparison
from hpc_bnn.verify.comparison import RATE, Comparison, compare
from hpc_bnn.verify.vocabulary import SCORES

MARKS = {"better": "B", "worse": "W", "no difference": "=", "unknown": "?"}
SIGNS = {"better": "\u25b2", "worse": "\u25bc", "no difference": "\u2248", "unknown": "?"}
MOST_COLUMNS = 10  # lead times of a table on a terminal


@dataclass(frozen=True)
class Pair:
    """A run beside the first one; ``why``: what keeps them from being compared."""

    first: str
    second: str
    units: dict[str, str]
    result: Comparison | None = None
    why: str = ""


def compare_runs(runs: Sequence[Run]) -> list[Pair]:
    """Compare each run with the first."""
    return [_pair(runs[0], run) for run in runs[1:]]


def _pair(first: Run, second: Run) -> Pair:
    names = (first.name, second.name)
    if not (first.evaluation and second.evaluation):
        return Pair(*names, {}, why="not both were evaluated")
    if not (is_of_fields(first) and is_of_fields(second)):
        return Pair(
            *names, {}, why="evaluate keeps no scores of single examples of images and series, so "
            "nothing is said of chance; several seeds of each run tell it",
        )  # fmt: skip
    try:
        held = [read_start_scores(RunFolder(run.path).evaluation_starts) for run in (first, second)]
        units = dict(zip(held[0].names, held[0].units, strict=True))
        return Pair(*names, units, compare(held[0], held[1], names))
    except (OSError, ValueError) as error:
        return Pair(*names, {}, why=" ".join(str(error).split()))


def scorecard_blocks(pairs: Sequence[Pair]) -> list[Block]:
    """Return a table of each pair and score, a row a variable and a column a lead time."""
    blocks: list[Block] = []
    for pair in pairs:
        if pair.result is None:
            blocks.append(Notes([f"{pair.second} against {pair.first}: {pair.why}."]))
            continue
        texts = [_summary(pair, pair.result), *pair.result.notes]
        blocks.append(Notes(texts))
        blocks += [_table(pair, pair.result, score) for score in pair.result.scores]
    return blocks


def scorecard_lines(pairs: Sequence[Pair]) -> list[str]:
    """Return the same as plain text."""
    lines = []
    for pair in pairs:
        if pair.result is None:
            lines.append(f"{pair.second} against {pair.first}: {pair.why}")
            continue
        lines += [_summary(pair, pair.result), *pair.result.notes]
        for score in pair.result.scores:
            lines += _text_table(pair, pair.result, score)
    return lines


def _summary(pair: Pair, result: Comparison) -> str:
    better, worse = result.count("better"), result.count("worse")
    judged = len(result.cells) - result.count("unknown")
    return (
        f"{pair.second} against {pair.first}, over {result.starts} start times: better in {better} "
        f"and worse in {worse} of {judged} cells (variable, lead time, score), at a rate of false "
        f"discoveries of {100 * RATE:g} % over all of them (paired block bootstrap, Benjamini and "
        "Hochberg)."
    )


def _table(pair: Pair, result: Comparison, score: str) -> Table:
    rows = []
    for name in result.names:
        cells = [_card(cell, pair.units.get(name, "")) for cell in result.at(score, name)]
        rows.append([Cell(name), *cells])
    head = ("variable", *(f"{lead:g} h" for lead in result.lead_hours))
    caption = (
        f"{SCORES[score].label}: {pair.second} against {pair.first}, change in %. "
        f"{SIGNS['better']} {pair.second} is better, {SIGNS['worse']} it is worse, "
        f"{SIGNS['no difference']} no significant difference, ? not known"
    )
    return Table(head, rows, caption)


def _card(cell: comparison.Cell, units: str) -> Cell:
    look = cell.verdict if cell.verdict in ("better", "worse") else ""
    held = cell.difference
    unit = f" {unit_text(units)}" if units else ""
    hint = f"{number_text(cell.first)} and {number_text(cell.second)}{unit}"
    if held is not None:
        hint += (
            f"; difference {number_text(held.mean)}, 95 %: {number_text(held.low)} to "
            f"{number_text(held.high)}{unit}; p = {held.p_value:.2g}; blocks of {held.block} starts"
        )
    text = f"{SIGNS[cell.verdict]} {100 * cell.change:+.1f}"
    return Cell(text, is_number=True, look=look, hint=hint)


def _text_table(pair: Pair, result: Comparison, score: str) -> list[str]:
    """Return a table of at most ``MOST_COLUMNS`` lead times, evenly spaced."""
    count = len(result.lead_hours)
    steps = min(count, MOST_COLUMNS)
    places = sorted({round(i * (count - 1) / max(1, steps - 1)) for i in range(steps)})
    marks = ", ".join(f"{mark} {verdict}" for verdict, mark in MARKS.items())
    lines = [
        f"{SCORES[score].label}, change from {pair.first} to {pair.second} in % ({marks}):",
        f"{'':10s}" + "".join(f"{f'{result.lead_hours[at]:g} h':>10s}" for at in places),
    ]
    for name in result.names:
        cells = result.at(score, name)
        texts = [f"{MARKS[cells[at].verdict]} {100 * cells[at].change:+.1f}" for at in places]
        lines.append(f"{name:10s}" + "".join(f"{text:>10s}" for text in texts))
    return lines
