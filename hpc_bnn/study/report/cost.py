"""What a run cost: the phases of a step, memory against the estimate, rates, energy; and where it
came from: grid, samples, versions, machine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hpc_bnn.study.report.blocks import (
    DASH,
    Block,
    Cell,
    Charts,
    Table,
    mapping,
    number,
    number_text,
    size_text,
)
from hpc_bnn.study.report.chart import stacked_bars
from hpc_bnn.study.report.folders import Run

PHASES = ("data", "draw", "forward", "backward", "communication", "optimizer", "other")
LOOKS = {phase: f"c{at}" for at, phase in enumerate(PHASES)}
SMALLEST = 1e-3  # share of a step that is worth a place in the legend
MIB = 2**20


def cost_blocks(runs: Sequence[Run]) -> list[Block]:
    """Return time and memory of the runs that have ended."""
    ended = [run for run in runs if run.summary]
    if not ended:
        return []
    bars = phase_charts({run.name: run.summary for run in ended}, title="time of a step [ms]")
    return [*bars, *_phase_table(ended), _rates(ended), *_memory(ended)]


def phase_charts(summaries: Mapping[str, Mapping[str, Any]], *, title: str) -> list[Charts]:
    """Return the phases of a step as a bar for each summary, by name."""
    held = {name: phases for name, s in summaries.items() if (phases := _phases(s))}
    longest = max((sum(phases.values()) for phases in held.values()), default=0.0)
    shown = [
        phase
        for phase in PHASES
        if any(phases.get(phase, 0.0) > SMALLEST * longest for phases in held.values())
    ]
    if not shown:
        return []
    stacks = [[(LOOKS[p], 1e3 * phases.get(p, 0.0)) for p in shown] for phases in held.values()]
    chart = stacked_bars(title, list(held), stacks, unit="ms, mean over ranks of their medians")
    return [Charts([chart], {_phase_label(phase): f"bar {LOOKS[phase]}" for phase in shown})]


def _phase_table(ended: Sequence[Run]) -> list[Table]:
    """Return the phases of a step with their shares."""
    held = {run.name: phases for run in ended if (phases := _phases(run.summary))}
    rows = []
    for phase in PHASES:
        if any(phase in phases for phases in held.values()):
            cells = []
            for phases in held.values():
                seconds, whole = phases.get(phase), sum(phases.values())
                share = None if seconds is None or not whole else 100 * seconds / whole
                cells += [
                    Cell(number_text(None if seconds is None else 1e3 * seconds, digits=3), True),
                    Cell(DASH if share is None else f"{share:.1f}", True),
                ]
            rows.append([Cell(_phase_label(phase)), *cells])
    head = ["phase of a step"]
    for name in held:
        head += [f"{name} [ms]", "share [%]"]
    return [Table(head, rows)] if rows else []


def _phase_label(phase: str) -> str:
    names = {"data": "wait for data", "communication": "communication (not hidden)"}
    return names.get(phase, phase)


def _phases(summary: Mapping[str, Any]) -> dict[str, float]:
    held = {name: number(value) for name, value in mapping(summary.get("phases_s")).items()}
    return {name: value for name, value in held.items() if value is not None}


def _memory(ended: Sequence[Run]) -> list[Charts]:
    """Draw the peak of the largest rank beside what the estimate says."""
    names, stacks = [], []
    for run in ended:
        peak = number(run.summary.get("peak_memory_bytes"))
        guess = number(run.memory.get("bytes"))
        if peak is None:
            continue
        names.append(run.name)
        stacks.append([("c1", peak / MIB)])
        if guess is not None:
            names.append("  estimate")
            stacks.append([("c7", guess / MIB)])
    title = "peak memory of the largest rank [MiB]"
    legend = {"measured": "bar c1", "estimate (train --estimate)": "bar c7"}
    if "  estimate" not in names:
        legend = {"measured": "bar c1"}
    chart = stacked_bars(title, names, stacks, unit="MiB")
    return [Charts([chart], legend)] if names else []


def _rates(ended: Sequence[Run]) -> Table:
    def milliseconds(key: str) -> Callable[[Run], str]:
        def text(run: Run) -> str:
            seconds = number(mapping(run.summary.get("step_time_s")).get(key))
            return number_text(None if seconds is None else 1e3 * seconds)

        return text

    def of(key: str, *, scale: float = 1.0, digits: int = 4) -> Callable[[Run], str]:
        def text(run: Run) -> str:
            value = number(run.summary.get(key))
            return number_text(None if value is None else scale * value, digits=digits)

        return text

    def estimate(run: Run) -> str:
        guess = number(run.memory.get("bytes"))
        peak = number(run.summary.get("peak_memory_bytes"))
        if guess is None or not peak:
            return DASH
        return f"{size_text(guess)} ({guess / peak - 1:+.0%})"

    lines: dict[str, Callable[[Run], str]] = {
        "time of a step, median [ms]": milliseconds("median"),
        "time of a step, 90 % quantile [ms]": milliseconds("p90"),
        "examples [1/s]": of("examples_per_s"),
        "share of communication [%]": of("communication_share", scale=100, digits=3),
        "share of waiting for data [%]": of("data_wait_share", scale=100, digits=3),
        "peak memory of the largest rank": lambda r: size_text(r.summary.get("peak_memory_bytes")),
        "its estimate (difference)": estimate,
        "read from files": lambda r: size_text(mapping(r.summary.get("data")).get("bytes_read")),
        "energy [kJ]": of("energy_j", scale=1e-3),
    }
    return _known_rows(ended, lines, head="figure", are_numbers=True)


def provenance_blocks(runs: Sequence[Run]) -> list[Block]:
    """Return what the runs recorded of themselves."""
    lines: dict[str, Callable[[Run], str]] = {
        "grid": _grid,
        "engine": lambda r: str(r.summary.get("engine") or DASH),
        "weight samples of a step, K": lambda r: _setting(r, "posterior", "samples"),
        "batch size, B": lambda r: _setting(r, "train", "batch_size"),
        "seed": lambda r: DASH if r.settings is None else str(r.settings.seed),
        "steps": lambda r: str(r.steps),
        "precision": lambda r: _setting(r, "train", "precision"),
        "device": lambda r: str(r.summary.get("device") or DASH),
        "hosts": lambda r: ", ".join(map(str, r.summary.get("hosts") or ())) or DASH,
        "restarts": lambda r: number_text(r.summary.get("restarts")),
        "steps lost by them": lambda r: number_text(r.summary.get("lost_steps")),
        "parameter checksum": lambda r: number_text(
            mapping(r.summary.get("parameter_checksum")).get("sum"), digits=12
        ),
        "weight samples of the scores": lambda r: number_text(
            r.evaluation.get("samples") or r.evaluation.get("members")
        ),
        "step of the scores": lambda r: number_text(r.evaluation.get("step")),
        "data": lambda r: str(r.evaluation.get("data") or _setting(r, "data", "name")),
        "folder": lambda r: str(r.path),
    }
    versions = dict.fromkeys(v for r in runs for v in mapping(r.summary.get("versions")))
    for name in versions:
        lines[f"version: {name}"] = lambda r, name=name: str(  # type: ignore[misc]
            mapping(r.summary.get("versions")).get(name) or DASH
        )
    return [_known_rows(runs, lines, head="what")]


def _known_rows(
    runs: Sequence[Run],
    lines: Mapping[str, Callable[[Run], str]],
    *,
    head: str,
    are_numbers: bool = False,
) -> Table:
    """Return a table with a row for each line of which some run knows the value."""
    rows = []
    for label, text_of in lines.items():
        texts = [text_of(run) for run in runs]
        if set(texts) != {DASH}:
            rows.append([Cell(label), *(Cell(text, is_number=are_numbers) for text in texts)])
    return Table((head, *(run.name for run in runs)), rows)


def _grid(run: Run) -> str:
    grid = mapping(run.summary.get("grid"))
    sizes = [number(grid.get(key)) for key in ("sample_ranks", "data_ranks", "nodes")]
    if sizes[0] is None or sizes[1] is None:
        return DASH
    nodes = "" if sizes[2] is None else f" on {sizes[2]:g} node{'s' if sizes[2] != 1 else ''}"
    return f"{sizes[0]:g} sample x {sizes[1]:g} data ranks{nodes}"


def _setting(run: Run, section: str, key: str) -> str:
    return DASH if run.settings is None else str(getattr(getattr(run.settings, section), key))
