"""The curves of trainings, all runs over one another: loss and its parts, validation scores."""

from collections.abc import Sequence

from hpc_bnn.study.report.blocks import Charts, number, score_title
from hpc_bnn.study.report.chart import Curve, colour, line_chart, running_mean
from hpc_bnn.study.report.folders import Row, Run
from hpc_bnn.verify.vocabulary import COUNTS, NOT_SHOWN, score_of

OF_STEPS = {
    "loss": "objective, of an example",
    "nll": "data term, of an example",
    "kl": "KL [nats]",
    "lr": "learning rate",
}
PREFIX = "validation_"
NOT_DRAWN = (*NOT_SHOWN, *COUNTS)
MANY = 100  # steps from which a running mean is drawn over them


def training_charts(runs: Sequence[Run]) -> list[Charts]:
    """Return the curves over steps of what each step wrote."""
    charts, legend = [], dict[str, str]()
    losses = {run.settings.loss.name for run in runs if run.settings is not None}
    for key, title in OF_STEPS.items():
        title = f"{title}: {losses.copy().pop()}" if key == "nll" and len(losses) == 1 else title
        curves: list[Curve] = []
        for at, run in enumerate(runs):
            steps, values = _column(run.rows, key)
            if len(values) > MANY and key != "lr":
                curves.append(Curve(f"{run.name}, each step", f"{colour(at)} faint", steps, values))
                values = running_mean(values)
            curves.append(Curve(run.name, f"{colour(at)} line", steps, values))
        curves = [curve for curve in curves if curve.points()]
        if curves:
            legend |= {c.name: c.look for c in curves if "faint" not in c.look or len(runs) == 1}
            charts.append(
                line_chart(title, curves, x_label="step", may_be_log=key in ("loss", "nll", "kl"))
            )
    return [Charts(charts, legend, "Training")] if charts else []


def validation_charts(runs: Sequence[Run], units: str) -> list[Charts]:
    """Return the curves over steps of the scores of the validation split, in their units."""
    keys = dict.fromkeys(
        key.removeprefix(PREFIX) for run in runs for row in run.rows for key in row
        if key.startswith(PREFIX)
    )  # fmt: skip
    charts, legend = [], dict[str, str]()
    for key in keys:
        curves = [
            Curve(run.name, f"{colour(at)} line", *_column(run.rows, f"{PREFIX}{key}"))
            for at, run in enumerate(runs)
        ]
        curves = [curve for curve in curves if curve.points()]
        if key in NOT_DRAWN or not curves:
            continue
        legend |= {curve.name: curve.look for curve in curves}
        score = score_of(key)
        level = score.nominal if score.better == "nearer" else None
        charts.append(line_chart(score_title(score, units), curves, x_label="step", level=level))
    return [Charts(charts, legend, "Validation split")] if charts else []


def _column(rows: Sequence[Row], key: str) -> tuple[list[float], list[float | None]]:
    """Return the steps at which a quantity was written, and its values."""
    held = [row for row in rows if key in row]
    return [row["step"] for row in held], [number(row[key]) for row in held]
