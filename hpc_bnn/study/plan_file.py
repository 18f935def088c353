"""The folder of a study: ``plan.json``, the settings of all its points, and one run folder each.

DIR/plan.json        points, and the fingerprint of the settings
DIR/settings.yaml    resolved settings, which each point overrides
DIR/points.tsv       name, nodes, ranks per node, overrides: what a batch script submits
DIR/points/NAME/     run folder of a point, as ``train`` writes it
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hpc_bnn
from hpc_bnn.config import Settings, SettingsError, dump_settings, load_settings
from hpc_bnn.files import write_json, write_whole
from hpc_bnn.study.points import Point, make_points
from hpc_bnn.study.study_file import ALONG_DATA, ENOUGH_REPEATS, Study, find_file, load_study
from hpc_bnn.train.run.build import check_choices
from hpc_bnn.train.run.folder import RunFolder

# What the points of a plan may differ in.
VARIED = (
    "grid.mode", "grid.sample_ranks", "posterior.samples", "train.batch_size", "train.steps",
    "train.epochs", "train.checkpoint_every", "train.validate_every", "train.max_time",
)  # fmt: skip
FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """A study that can be run.

    Attributes
    ----------
    fingerprint
        sha256 of ``settings.yaml``.
    """

    folder: Path
    study: Study
    points: tuple[Point, ...]
    fingerprint: str

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.yaml"

    @property
    def csv(self) -> Path:
        return self.folder / "scaling.csv"

    def run_folder(self, point: Point) -> RunFolder:
        """Return where a point is run."""
        return RunFolder(self.folder / "points" / point.name)

    def log(self, point: Point) -> Path:
        """Return the output of a point that ``scaling run`` started."""
        return self.folder / "logs" / f"{point.name}.log"

    def attempt(self, point: Point) -> Path:
        """Return the file that tells how ``scaling run`` fared with a point."""
        return self.folder / "logs" / f"{point.name}.json"

    def settings(self) -> Settings:
        """Return the settings of the study.

        Raises
        ------
        ValueError
            If they were changed after the plan was made.
        """
        text = self.settings_file.read_text(encoding="utf-8")
        if fingerprint(text) != self.fingerprint:
            raise ValueError(
                f"{self.settings_file}: was changed after the plan was made; make a new plan"
            )
        return load_settings(self.settings_file)


def fingerprint(text: str) -> str:
    """Return the sha256 of settings as text."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_plan(study_file: Path, folder: Path) -> tuple[Plan, Settings]:
    """Read a study and return its plan and settings; nothing is written.

    Raises
    ------
    SettingsError, FileNotFoundError
        If the study, its settings or one of its points cannot be used.
    """
    path = find_file(study_file)
    study = load_study(path)
    config = find_file(Path(study.config), beside=path)
    origin = f"{config} with the overrides of {path}" if study.overrides else str(config)
    try:
        settings = load_settings(config, study.overrides)
    except SettingsError as error:
        problems = [p.replace("command line:", f"{path}: overrides:") for p in error.problems]
        raise SettingsError(problems) from error
    check_choices(settings, origin)
    # Every step costs the same: points of larger batches would reach longer rollouts sooner.
    first = {"rollout": {0: settings.train.rollout[0]}}
    settings = settings.model_copy(update={"train": settings.train.model_copy(update=first)})
    try:
        points = make_points(
            study, samples=settings.posterior.samples, batch_size=settings.train.batch_size
        )
    except SettingsError as error:
        raise SettingsError([f"{path}: {problem}" for problem in error.problems]) from error
    return Plan(folder, study, tuple(points), fingerprint(dump_settings(settings))), settings


def write_plan(plan: Plan, settings: Settings) -> None:
    """Write a plan into its folder; the same plan may be written again.

    Raises
    ------
    ValueError
        If the folder holds another plan, or files that no plan wrote.
    """
    content = _content(plan)
    target = plan.folder / "plan.json"
    rows = [
        "\t".join([p.name, str(p.nodes), str(p.ranks // p.nodes), *p.overrides])
        for p in plan.points
    ]
    texts = {
        plan.settings_file: dump_settings(settings),
        plan.folder / "points.tsv": "".join(f"{row}\n" for row in rows),
    }
    if not target.is_file():
        _refuse_foreign(plan, texts)
    elif _read_json(target) != content:
        raise ValueError(f"{plan.folder}: holds another plan; choose another folder with --runs")
    plan.folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        write_whole(path, text.encode())
    write_json(target, content)


def read_plan(folder: Path) -> Plan:
    """Read the plan of a folder.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it cannot be read.
    """
    path = folder / "plan.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no plan; make one with hpc-bnn scaling plan STUDY.yaml --runs {folder}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        points = []
        for fields in content["points"]:
            series = tuple((kind, mode) for kind, mode in fields.pop("series"))
            points.append(Point(series=series, overrides=tuple(fields.pop("overrides")), **fields))
        study = Study.model_validate(content["study"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as a plan ({error}); make it again") from error
    return Plan(folder, study, tuple(points), content["fingerprint"])


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(
            f"{path}: is no JSON ({error}); expected a plan: it is not overwritten; "
            "choose another folder with --runs, or remove it"
        ) from error


def _refuse_foreign(plan: Plan, texts: Mapping[Path, str]) -> None:
    """Refuse a folder without a plan that holds files of the names a study writes.

    A plan that was broken off left the same texts: they may be written again.
    """
    foreign = [
        p
        for p, text in texts.items()
        if p.is_symlink()  # its target would be overwritten
        or (p.exists() and (not p.is_file() or p.read_bytes() != text.encode()))
    ]
    foreign += [p for p in (plan.csv, plan.folder / "projection.json") if p.exists()]
    foreign += sorted(plan.folder.glob("*.png"))
    if foreign:
        raise ValueError(
            f"{plan.folder}: holds {', '.join(path.name for path in foreign)} but no plan.json, "
            "so no plan: they are not overwritten; choose another folder with --runs, "
            "or remove them"
        )


def table(plan: Plan) -> list[str]:
    """Return the plan as lines, one for each point, and what its reader should know before."""
    lines = [f"{'ranks':>5} {'nodes':>5} {'S x D':>9} {'K':>6} {'B':>6} {'runs':>4}  series"]
    for point in [p for p in plan.points if p.repeat == 1]:
        grid = f"{point.sample_ranks} x {point.data_ranks}"
        series = ", ".join(f"{kind} {mode}" for kind, mode in point.series)
        lines.append(
            f"{point.ranks:5d} {point.nodes:5d} {grid:>9} {point.samples:6d} "
            f"{point.batch_size:6d} {plan.study.repeats:4d}  {series}"
        )
    study = plan.study
    lines.append(
        f"{len(plan.points)} runs of {study.steps} steps, in {study.repeats} round(s) over all "
        "points"
    )
    if study.repeats < ENOUGH_REPEATS:
        lines.append(
            f"warning: {study.repeats} repeat(s) say nothing about the spread between runs; "
            f"{ENOUGH_REPEATS} or more do"
        )
    along = [kind for kind in study.kinds if kind in ALONG_DATA]
    if along and study.sizes_of("sample"):
        lines.append(f"{', '.join(along)}: not in mode sample, which has one data rank")
    return lines


def _content(plan: Plan) -> dict[str, Any]:
    content = {
        "format": FORMAT,
        "hpc_bnn": hpc_bnn.__version__,
        "fingerprint": plan.fingerprint,
        "varied": list(VARIED),
        "study": plan.study.model_dump(mode="json"),
        "points": [asdict(point) for point in plan.points],
    }
    loaded: dict[str, Any] = json.loads(json.dumps(content))
    return loaded
