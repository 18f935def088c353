"""Job scripts and modulefiles of every site: ``python -m pytest tests/sites``.

Needs neither MPI nor the machines; what needs a tool of this machine (shellcheck, Lmod, tclsh) is
skipped by name where the tool is missing.
"""

from pathlib import Path

import pytest
from site_files import render, site_names


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each site's job scripts and modulefiles."""
    folder = tmp_path_factory.mktemp("sites")
    return {site: render(site, folder / site) for site in site_names()}
