"""The customary benchmark of the ETT files, on a real one: its split, its standardised scores, and
that the bundled settings take it. Its licence does not let it be here: where it is absent, skipped.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_bnn.config import CONFIGS, load_settings
from hpc_bnn.data import Source
from hpc_bnn.data.series.naive import naive_tallies, standardised
from hpc_bnn.data.series.windows import Windows
from hpc_bnn.group import ALONE
from hpc_bnn.train.run.build import read_source

ROOT = Path(__file__).parents[3]
FILE = Path(os.environ.get("HPC_BNN_TEST_DATA") or ROOT.parent / "shared" / "data") / "ETTh2.csv"


@pytest.fixture(scope="module")
def source() -> Source:
    if not FILE.is_file():
        pytest.skip("ETTh2.csv is not in $HPC_BNN_TEST_DATA or ../shared/data")
    settings = load_settings(CONFIGS / "series_ett.yaml", [f"data.path={FILE}"])
    return read_source(settings, ALONE)


def test_scores_of_yesterday_are_those_of_rows_and_standard_deviations(source: Source) -> None:
    """MSE and MAE of the day before, from the numbers of the file alone: 2785 windows of targets in
    rows 11520 to 14400, standardised by mean and standard deviation (ddof 0) of rows 0 to 8640.
    """
    table = np.genfromtxt(FILE, delimiter=",", skip_header=1, usecols=range(1, 8))
    assert table.shape == (17420, 7)
    rows = (table - table[:8640].mean(0)) / table[:8640].std(0)
    first = np.arange(11520, 14400 - 96 + 1)[:, None] + np.arange(96)
    truth, forecast = rows[first], rows[first[:, :1] - 24 + np.arange(96) % 24]
    assert len(first) == len(source.test) == 2785
    assert isinstance(source.train, Windows)
    assert isinstance(source.test, Windows)
    assert source.scale is not None
    _, y = source.test.batch(torch.arange(2785))
    assert np.allclose(y, truth, atol=1e-5)
    found = standardised(
        naive_tallies(source.train, source.test, source.scale)["day_before"], source.scale
    )
    # float32 of standardised values
    assert found["mse"] == pytest.approx(np.square(forecast - truth).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(forecast - truth).mean(), rel=1e-5)
    assert found["crps"] == pytest.approx(found["mae"], rel=1e-12)
