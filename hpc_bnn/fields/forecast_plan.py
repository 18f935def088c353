"""What a forecast file will hold, known to every process before there is one, and whether a file
that is there is of the same forecast.

The head of a file, with its settings as attributes, is a function of the plan: a file of the same
forecast begins with the same bytes, on any number of ranks and whenever it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from struct import pack
from typing import Any

import netCDF4
import numpy as np

from hpc_bnn.fields.forecast_header import describe_cf
from hpc_bnn.fields.forecast_layout import (
    Description,
    Forecast,
    Geometry,
    along_records,
    geometry,
    header,
    open_header,
)
from hpc_bnn.fields.ingest.netcdf import library_lock
from hpc_bnn.fields.weatherbench_file import describe_weatherbench

LAYOUTS: dict[str, Callable[[Forecast], Description]] = {
    "cf": describe_cf,
    "weatherbench": describe_weatherbench,
}
LONGEST = 60  # characters of a value that a message shows


class OtherForecastError(ValueError):
    """A file holds a forecast with other settings; the message says which."""


@dataclass(frozen=True, eq=False)
class ForecastPlan:
    """A forecast, its layout (of ``LAYOUTS``) and the attributes of the whole file.

    attributes: title, source, history and all settings that the numbers depend on.
    """

    forecast: Forecast
    attributes: Mapping[str, str]
    layout: str = "cf"
    known_geometry: Geometry | None = None

    def of_start(self, start_s: int) -> ForecastPlan:
        """Return the plan of a file of one start of the set."""
        one = replace(self.forecast, starts_s=(start_s,), is_set=False)
        return replace(self, forecast=one, known_geometry=self._geometry_of_start)

    @cached_property
    def _geometry_of_start(self) -> Geometry:
        one = replace(self.forecast, starts_s=self.forecast.starts_s[:1], is_set=False)
        return replace(self, forecast=one).geometry

    @cached_property
    def description(self) -> Description:
        """The file in its layout; ValueError for a forecast that makes none."""
        return LAYOUTS[self.layout](self.forecast)

    @cached_property
    def head(self) -> bytes:
        """The bytes before the records."""
        rows = next(iter(self.description.sizes.values()))
        content = header(self.description, self.attributes)
        return content[:4] + pack(">Q", rows) + content[12:]

    @cached_property
    def geometry(self) -> Geometry:
        """Where things lie; files of one start each have the same."""
        return self.known_geometry or geometry(self.description, len(self.head))

    @property
    def rows(self) -> int:
        """How many records there are: members, or starts."""
        return len(self.forecast.starts_s) if self.has_starts else self.forecast.members

    @property
    def has_starts(self) -> bool:
        """Whether records are starts."""
        return self.forecast.is_set or self.layout != "cf"

    @property
    def cells(self) -> int:
        """How many (start, member, lead time) there are."""
        return len(self.forecast.starts_s) * self.cells_of_start

    @property
    def cells_of_start(self) -> int:
        """How many (member, lead time) there are."""
        return self.forecast.members * len(self.forecast.lead_hours)

    @property
    def end(self) -> int:
        """Where the netCDF file ends."""
        return self.geometry.begin + self.rows * self.geometry.record

    @cached_property
    def grid(self) -> tuple[int, int]:
        """H, W."""
        return len(self.forecast.latitude), len(self.forecast.longitude)

    def place(self, channel: int, start: int, member: int, lead: int) -> int:
        """Return the byte where a field begins."""
        offset, levels, level = self.geometry.channels[channel]
        row, inner = (start, member) if self.has_starts else (member, 0)
        field = (inner * len(self.forecast.lead_hours) + lead) * levels + level
        begin = self.geometry.begin + row * self.geometry.record + offset
        return begin + 4 * field * self.grid[0] * self.grid[1]

    def along(self) -> list[tuple[int, bytes]]:
        """Return the coordinates of each record and where they lie."""
        begin, record = self.geometry.begin, self.geometry.record
        rows = along_records(self.description)
        return [(begin + at * record, content) for at, content in enumerate(rows)]

    def is_in(self, path: Path) -> bool:
        """Tell whether a file, finished or not, is of this forecast."""
        with path.open("rb") as file:
            if file.read(len(self.head)) != self.head:
                return False
            for place, content in self.along():
                file.seek(place)
                if file.read(len(content)) != content:
                    return False
        return True

    def require_in(self, path: Path) -> None:
        """Raise OtherForecastError unless a file, finished or not, is of this forecast."""
        if self.is_in(path):
            return
        try:
            with library_lock(), netCDF4.Dataset(path) as there:
                found = next(self._differences(there), "the header")
        except (OSError, RuntimeError):
            found = "it is no netCDF file"
        raise OtherForecastError(
            f"{path}: holds another forecast than the one asked for: {found}; ask for the same "
            "again, give another output, or remove it"
        )

    def _differences(self, there: netCDF4.Dataset) -> Iterator[str]:
        """Say what differs in a file, what explains most first."""
        there.set_auto_mask(False)
        with open_header(self.head) as asked:
            for name in ("checkpoint", "config", "source", "history"):
                yield from _attribute(name, getattr(there, name, ""), getattr(asked, name))
            if set(there.dimensions) != set(asked.dimensions):
                names = [", ".join(each.dimensions) for each in (there, asked)]
                yield f"it has the dimensions {names[0]}, asked: {names[1]} (layout, one start)"
            fields = [v.name for v in self.description.variables]
            known = {*fields, *(c.name for c in self.description.coordinates)}
            known |= {c.name for c in self.description.along}
            if set(there.variables) != known:
                extra = set(there.variables) - known
                names = ["variables", ", ".join(sorted(extra)) or "none"]
                lacking = ", ".join(sorted(known - set(there.variables))) or "none"
                yield f"{names[0]} only there: {names[1]}; only asked: {lacking}"
            for name, size in self.description.sizes.items():
                if len(there.dimensions[name]) != size:
                    yield f"{name}: {len(there.dimensions[name])} there, {size} asked"
            for one in (*self.description.coordinates, *self.description.along):
                if not np.array_equal(there[one.name][...], one.values):
                    yield f"{one.name}: other values than asked"


def _attribute(name: str, there: Any, asked: Any) -> Iterator[str]:
    """Say which line of an attribute differs, the key before it in YAML left out."""
    if there == asked:
        return
    before, now = (str(text).splitlines() for text in (there, asked))
    gone = [line.strip() for line in before if line not in now]
    new = [line.strip() for line in now if line not in before]
    there, asked = (_short(lines[0] if lines else "nothing") for lines in (gone, new))
    yield f"{name}: {there!r} there, {asked!r} asked"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
