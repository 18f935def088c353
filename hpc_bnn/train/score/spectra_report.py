"""What ``evaluate`` writes of zonal spectra: ``evaluation_spectra.nc`` and a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_bnn.data.source import Fields
from hpc_bnn.fields.spectra_file import write_spectra
from hpc_bnn.verify.spectra_plots import plot_spectra
from hpc_bnn.verify.spectrum import Spectra


def report_spectra(
    spectra: Spectra,
    fields: Fields,
    lead_hours: Sequence[float],
    *,
    file: Path,
    plots: Path,
    note: str,
    attributes: Mapping[str, str | int],
) -> None:
    """Write the spectra (L, C, K) of the channels that have some, and draw them; of a region there
    are none.

    file: of the numbers. plots: the folder of pictures. attributes: of the file.
    """
    kept = [
        at for at in range(len(fields.channels)) if not bool(spectra.truth[:, at].isnan().all())
    ]
    if not kept:
        file.unlink(missing_ok=True)  # those of an earlier evaluation
        return
    spectra = Spectra(*(power[:, kept] for power in spectra))
    units = {fields.channels[at].name: fields.channels[at].units for at in kept}
    write_spectra(file, spectra, units=units, lead_hours=lead_hours, attributes=attributes)
    path = plots / "spectra.png"
    plot_spectra(spectra, list(units), list(units.values()), lead_hours, path, note=note)
