"""Which spectra are written and drawn: those of channels with values at every point of a globe."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import xarray
from field_source import field_source

from hpc_bnn.train.score.spectra_report import report_spectra
from hpc_bnn.train.score.weather import _spectra_tally
from hpc_bnn.verify.spectra_plots import highest_ratio
from hpc_bnn.verify.spectrum import Spectra

ROWS, COLUMNS = 5, 16


class Band:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.members = torch.randn(3, 2, ROWS, COLUMNS, generator=generator)
        self.truth = torch.randn(2, ROWS, COLUMNS, generator=generator)


@pytest.mark.parametrize(
    ("periodic", "gap", "names"), [(True, False, "ab"), (True, True, "b"), (False, False, "")]
)
def test_what_is_reported(tmp_path: Path, periodic: bool, gap: bool, names: str) -> None:
    present = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    present[0, 1, 2] = False
    fields = field_source(rows=ROWS, columns=COLUMNS, periodic=periodic).fields
    assert fields is not None and fields.names == ("a", "b")
    fields = replace(fields, present=present if gap else None)
    tally = _spectra_tally(fields, 2)
    for lead in range(2):
        for channel in range(2):
            assert len(list(tally.passing(lead, channel, [(slice(0, ROWS), Band())]))) == 1
    file, plots = tmp_path / "evaluation_spectra.nc", tmp_path / "plots"
    plots.mkdir()
    report_spectra(
        tally.result(), fields, (24, 48), file=file, plots=plots, note="", attributes={"step": 1}
    )
    assert file.exists() == (plots / "spectra.png").exists() == bool(names)
    if names:
        with xarray.open_dataset(file, decode_timedelta=False) as written:
            assert written.variable.values.tolist() == list(names)
            assert bool(written.members.notnull().all())


def test_the_ratio_at_the_highest_wavenumbers_is_of_the_highest_quarter() -> None:
    truth = torch.tensor([9.0, 4, 3, 2, 1, 1, 1, 0.5, 0.5], dtype=torch.float64)
    members = truth.clone()
    members[:7] *= 5
    members[7:] = torch.tensor([1.0, 0.4])
    assert highest_ratio(Spectra(members, truth, truth)) == pytest.approx(1.4)
    truth[7:] = 1e-16
    assert torch.tensor(highest_ratio(Spectra(members, truth, truth))).isnan()
