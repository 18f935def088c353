"""ERA5 in netCDF: from files to forecast windows.

`catalogue` finds what files hold, `describe` and `defects` say it, `Reader` and `read` give fields,
`statistics` (or `tally`, `finish` for shares of it) what normalisation needs, `era5` and
`source_of` the data set; `repack` writes what they read as a cache or as netCDF files, `verify`
compares it.
"""

from hpc_bnn.data.era5.assemble import catalogue
from hpc_bnn.data.era5.cache.repack import repack
from hpc_bnn.data.era5.cache.verify import verify
from hpc_bnn.data.era5.calendar_fields import CALENDAR_CHANNELS, calendar
from hpc_bnn.data.era5.catalogue import Catalogue, Channel
from hpc_bnn.data.era5.era5 import era5, source_of
from hpc_bnn.data.era5.reader import Reader, read
from hpc_bnn.data.era5.report import defects, describe
from hpc_bnn.data.era5.statistics import (
    Statistics,
    Tally,
    finish,
    no_tally,
    statistics,
    tally,
    within_range,
)
from hpc_bnn.data.era5.statistics_file import read_statistics, write_statistics

__all__ = [
    "CALENDAR_CHANNELS",
    "Catalogue",
    "Channel",
    "Reader",
    "Statistics",
    "Tally",
    "calendar",
    "catalogue",
    "defects",
    "describe",
    "era5",
    "finish",
    "no_tally",
    "read",
    "read_statistics",
    "repack",
    "source_of",
    "statistics",
    "tally",
    "verify",
    "within_range",
    "write_statistics",
]
