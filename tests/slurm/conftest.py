"""Jobs on a real Slurm of four nodes on this machine: ``python -m pytest tests/slurm``.

All is skipped where no Slurm can be started.
"""

import functools
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "sites"))  # site_files, last: it hides no other

from cluster import Cluster, Unavailable
from configuration import Shape
from jobs import Job, submit
from node_faults import hand_back
from site_files import render
from tiny_train import SETTINGS, Train, Uninterrupted, summary

SITE = "generic_slurm"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of the site generic_slurm."""
    started = Cluster(tmp_path_factory.mktemp("slurm"), Shape.of_site(SITE, nodes=4))
    try:
        started.start()
    except Unavailable as reason:
        pytest.skip(f"a private Slurm: {reason}")
    try:
        tried = started.attempt("srun", "--mpi=pmix", "true")
        if tried.returncode:
            pytest.skip(f"Slurm without PMIx (Debian: libpmix-dev): {tried.stderr.strip()}")
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job scripts of generic_slurm, for this Python's environment."""
    return render(SITE, tmp_path_factory.mktemp("site")) / "jobscripts"


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def train(cluster: Cluster, scripts: Path, config: Path) -> Train:
    """Submit train.sbatch: ``train(TWO_BY_TWO, folder, "train.steps=3", given={...})``."""

    def start(
        options: tuple[str, ...],
        run: Path,
        *words: str,
        given: Mapping[str, str] | None = None,
    ) -> Job:
        script: list[str | Path] = [scripts / "train.sbatch", config, *words, "--run", run]
        return submit(cluster, run.parent, *options, *script, given=given)

    return start


@pytest.fixture(scope="session")
def uninterrupted(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The summary of a run on nodes and ranks as the options of sbatch say."""

    @functools.cache
    def finished(options: tuple[str, ...]) -> dict[str, Any]:
        run = tmp_path_factory.mktemp("uninterrupted") / "run"
        job = train(options, run)
        assert job.ended()["ExitCode"] == "0:0", job.report()
        return summary(run)

    return finished


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have all nodes back, also of a test that failed: the next one needs them."""
    yield
    if "cluster" in request.fixturenames:
        hand_back(request.getfixturevalue("cluster"))
