"""Shapes and channels that are known without files, against those of files."""

from pathlib import Path
from typing import Any

import torch

from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.outline import source_without_files
from hpc_bnn.fields.toy_atmosphere import write_toy


def test_a_source_without_files_has_the_shapes_and_channels_of_one_with(tmp_path: Path) -> None:
    write_toy(tmp_path, years=1, rows=9, columns=16, step_hours=24, levels=[500.0, 850.0])
    asked: dict[str, Any] = {
        "variables": ["t2m", "z", "u500"],
        "levels": [850, 500],
        "static": ["lsm"],
        "history": 2,
        "step_hours": 24,
    }
    spans = {
        "train": ("2001-01-01", "2001-10-31"),
        "validation": ("2001-11-01", "2001-11-30"),
        "test": ("2001-12-01", "2001-12-31"),
    }
    real = era5(tmp_path, **asked, **spans)
    made = source_without_files(9, 16, **asked)
    assert made.input_shape == real.input_shape
    assert made.output_shape == real.output_shape
    assert made.fields is not None
    assert real.fields is not None
    assert made.fields.names == real.fields.names
    assert made.fields.forcing == real.fields.forcing
    assert made.fields.vector_inputs == real.fields.vector_inputs
    assert made.fields.periodic == real.fields.periodic
    assert torch.allclose(made.fields.latitude, real.fields.latitude)
    assert torch.allclose(made.fields.longitude, real.fields.longitude)
    one = torch.tensor([0])
    for mine, read in zip(made.train.batch(one), real.train.batch(one), strict=True):
        assert (mine.shape, mine.dtype) == (read.shape, read.dtype)


def test_an_even_number_of_rows_ends_half_a_row_before_the_poles() -> None:
    fields = source_without_files(32, 64, variables=["t2m"], step_hours=24).fields
    assert fields is not None
    assert float(fields.latitude[0]) == 90 - 180 / 64
