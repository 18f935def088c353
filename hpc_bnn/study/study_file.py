"""The file of a scaling study: which runs it compares, checked as strictly as settings.

A study names a settings file and the numbers of ranks on which it runs. ``posterior.samples`` and
``train.batch_size`` of the settings are K and B of the smallest point; each kind says what grows:

    fixed_samples         strong scaling: K and B stay
    proportional_samples  weak scaling: K grows with the ranks, B stays
    fixed_batch           strong scaling along the data axis: K and B stay, modes data and hybrid
    growing_batch         weak scaling along the data axis: B grows with the ranks, K stays
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from hpc_bnn.config import CONFIGS, SettingsError
from hpc_bnn.config.options import IN_QUOTES, lower, needs_quotes
from hpc_bnn.config.yaml_text import read_yaml
from hpc_bnn.spelling import nearest

Kind = Literal["fixed_samples", "proportional_samples", "fixed_batch", "growing_batch"]
Mode = Literal["local", "sample", "data", "hybrid"]
KINDS: tuple[Kind, ...] = ("fixed_samples", "proportional_samples", "fixed_batch", "growing_batch")
MODES: tuple[Mode, ...] = ("local", "sample", "data", "hybrid")
# Their data axis grows, so a mode without one has nothing to show.
ALONG_DATA: tuple[Kind, ...] = ("fixed_batch", "growing_batch")
ENOUGH_REPEATS = 3
# Timed steps that make a median worth having.
ENOUGH_STEPS = 5


class Study(BaseModel):
    """What a study file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    config: str = Field(description="settings file: beside this file, a path, or a bundled name")
    overrides: list[str] = Field(
        default_factory=list, description="key=value, as on the command line of train"
    )
    kinds: list[Kind] = Field(min_length=1, description="what grows with the ranks")
    modes: list[Mode] | dict[Mode, list[PositiveInt]] = Field(
        min_length=1,
        description="grid modes; or each with its own numbers of ranks (nodes, where given). "
        "One rank is always local",
    )
    ranks: list[PositiveInt] = Field(
        default_factory=list, description="numbers of ranks on one node; this or nodes"
    )
    nodes: list[PositiveInt] = Field(default_factory=list, description="numbers of nodes")
    ranks_per_node: PositiveInt | None = Field(None, description="needed with nodes")
    sample_ranks: PositiveInt | None = Field(
        None, description="S of mode hybrid; ranks_per_node if left out"
    )
    repeats: PositiveInt = Field(3, description="runs of each point; fewer than 3 have no spread")
    steps: PositiveInt = Field(40, description="training steps of a run")
    warmup_steps: NonNegativeInt = Field(5, description="first steps, which are not timed")
    threads: PositiveInt = Field(1, description="OMP_NUM_THREADS of a rank (scaling run)")
    timeout_s: PositiveFloat = Field(3600.0, description="limit of one run (scaling run)")

    @model_validator(mode="after")
    def _sizes(self) -> "Study":
        if bool(self.ranks) == bool(self.nodes):
            raise ValueError("set one of ranks and nodes to a list of numbers, such as [1, 2, 4]")
        if self.nodes and self.ranks_per_node is None:
            raise ValueError("nodes needs ranks_per_node")
        if self.ranks and self.ranks_per_node is not None:
            raise ValueError("ranks are those of one node: leave out ranks_per_node, or set nodes")
        if self.steps < self.warmup_steps + ENOUGH_STEPS:
            raise ValueError(
                f"steps = {self.steps} leave fewer than {ENOUGH_STEPS} to time after "
                f"warmup_steps = {self.warmup_steps}; set steps to at least "
                f"{self.warmup_steps + ENOUGH_STEPS}"
            )
        modes = self.modes if isinstance(self.modes, dict) else {m: [] for m in self.modes}
        for name, numbers in (("ranks", self.ranks), ("nodes", self.nodes), ("kinds", self.kinds)):
            if len(set(numbers)) != len(numbers):
                raise ValueError(f"{name} = {numbers}: names something twice")
        if "hybrid" in modes and self.ranks_per_node is None and self.sample_ranks is None:
            raise ValueError("mode hybrid needs sample_ranks, or nodes with ranks_per_node")
        unknown = sorted({n for numbers in modes.values() for n in numbers} - set(self.sizes))
        if unknown:
            what = "ranks" if self.ranks else "nodes"
            raise ValueError(f"modes name {unknown}, which {what} = {list(self.sizes)} does not")
        if "local" in modes and 1 not in [n * (self.ranks_per_node or 1) for n in self.sizes]:
            raise ValueError("mode local runs on one rank, which this study does not have")
        if set(self.kinds) & set(ALONG_DATA) and not set(modes) & {"data", "hybrid"}:
            raise ValueError(f"kinds {', '.join(ALONG_DATA)} need mode data or hybrid")
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of ranks, or of nodes where those are given, in rising order."""
        return tuple(sorted(self.ranks or self.nodes))

    def sizes_of(self, mode: Mode) -> tuple[int, ...]:
        """Return the sizes at which a mode runs, () for a mode that it has not."""
        if isinstance(self.modes, dict):
            numbers = self.modes.get(mode)
            return () if numbers is None else tuple(sorted(numbers or self.sizes))
        return self.sizes if mode in self.modes else ()


def find_file(name: Path, beside: Path | None = None) -> Path:
    """Return a YAML file by path, beside another file, or a bundled one by name."""
    places = [*([beside.parent / name] if beside is not None else []), name]
    places += [CONFIGS / name] if name.parent == Path() else []
    return next((place for place in places if place.is_file()), name)


def load_study(path: Path) -> Study:
    """Read and check a study file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SettingsError
        With every error.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such study file; bundled ones are in {CONFIGS}")
    content = read_yaml(path)
    keys = ", ".join(Study.model_fields)
    if not isinstance(content, dict):
        raise SettingsError([f"{path}: expected keys ({keys}), got {content!r}"])
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        texts = [_explained(item) for item in error.errors()]
        raise SettingsError([f"{path}: {text}" for text in dict.fromkeys(texts)]) from error


def _explained(item: Any) -> str:
    parts = [str(part) for part in item["loc"]]
    key = parts[0] if parts else ""
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key{nearest(key, list(Study.model_fields))}"
    if item["type"] == "missing":
        return f"{key}: missing; {Study.model_fields[key].description}"
    message = lower(str(item["msg"]).removeprefix("Value error, "))
    if not key:
        return message
    hint = IN_QUOTES if needs_quotes(item) else ""
    return f"{key} = {item['input']!r}: {message} ({Study.model_fields[key].description}){hint}"
