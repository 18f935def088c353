"""What doctor says of the order of ranks, of their cores and of the network of GPUs."""

from pathlib import Path

import pytest

from hpc_bnn.parallel.placement import placement_problem
from hpc_bnn.parallel.site import Site
from hpc_bnn.study.binding import (
    binding_problem,
    cpus,
    is_binding_asked,
    network_findings,
    order_finding,
)
from hpc_bnn.study.machine import Place, binding_findings

BLOCKS, CYCLIC = [0, 0, 2, 2], [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("nodes", "sample_ranks", "is_good"),
    [
        (BLOCKS, 2, True),
        (CYCLIC, 2, False),
        (CYCLIC, 1, True),  # every rank for itself
        (CYCLIC, 4, True),  # both nodes are needed
        ([0, 0, 0, 3, 3, 3], 2, True),  # one group must cross
        ([0, 1, 2, 0, 1, 2], 3, False),
        ([0] * 8, 4, True),
        ([0, 0, 2, 2, 0, 0, 2, 2], 4, False),
        ([0, 0, 2, 2, 0, 0, 2, 2], 2, True),  # in turns, but by twos
    ],
)
def test_order_of_ranks(nodes: list[int], sample_ranks: int, is_good: bool) -> None:
    assert (placement_problem(nodes, sample_ranks) is None) == is_good


def test_order_says_what_to_do() -> None:
    (finding,) = order_finding(["a", "b", "a", "b"])
    assert not finding.good
    assert finding.value.startswith("world ranks 0-1, which share their batch, lie on 2 nodes")
    assert "--distribution=block" in finding.value
    (finding,) = order_finding(["a", "a", "b", "b"])
    assert finding.good
    assert order_finding(["a", "a"]) == []


def test_lists_of_cores() -> None:
    assert cpus("0-2,8,10-11\n") == {0, 1, 2, 8, 10, 11}
    assert cpus("\n") == set()


def sets(*lists: str) -> list[frozenset[int]]:
    return [cpus(text) for text in lists]


@pytest.mark.parametrize(
    ("cores", "beside", "asked", "said"),
    [
        (("0-3", "4-7"), ("0-3", "4-7"), True, ""),
        (("0-3", "4-7"), ("", ""), True, ""),
        (("0-7", "0-7"), ("", ""), False, ""),
        (("0-7", "0-7"), ("", ""), True, "no rank is bound"),
        (("0-4", "4-7"), ("", ""), False, "node ranks 0 and 1 share 1 core(s)"),
        (("0-3", "4-7"), ("0-3", "8-15"), True, "node rank 1 computes on a GPU beside other cores"),
    ],
)
def test_binding(cores: tuple[str, ...], beside: tuple[str, ...], asked: bool, said: str) -> None:
    problem = binding_problem(sets(*cores), sets(*beside), asked=asked)
    assert problem.startswith(said)
    assert bool(problem) == bool(said)


def test_binding_of_ranks_that_see_all_gpus_or_one() -> None:
    """LUMI's order: cores 48-55 are beside GPU 0."""
    beside = tuple(sets("48-55", "0-7"))
    own, gpus = sets("49-55", "1-7"), frozenset({"a", "b"})
    places = [Place("n", cores, gpus, 1, 64, beside) for cores in own]
    (finding,) = binding_findings(places, asked=True)
    assert (finding.good, finding.value) == (True, "each on its own cores")
    (finding,) = binding_findings(places[::-1], asked=True)
    assert not finding.good
    one_each = [
        Place("n", cores, frozenset({str(i)}), 1, 64, (beside[i],)) for i, cores in enumerate(own)
    ]
    (finding,) = binding_findings(one_each, asked=True)
    assert finding.good


def test_binding_is_asked_by_a_site_and_its_launcher() -> None:
    site = Site(launcher="srun", binding=("--cpu-bind=cores",))
    assert is_binding_asked({"SLURM_STEP_ID": "0"}, site)
    assert not is_binding_asked({}, site)
    assert not is_binding_asked({"SLURM_STEP_ID": "0"}, Site())


def test_network_of_gpus(tmp_path: Path) -> None:
    assert network_findings({}, slingshot=False) == []
    (cray,) = network_findings({"MPICH_GPU_SUPPORT_ENABLED": "1"}, slingshot=False)
    assert not cray.good
    assert network_findings({"MPICH_GPU_SUPPORT_ENABLED": "0"}, slingshot=False) == []
    path = {"LD_LIBRARY_PATH": f"/nowhere:{tmp_path}"}
    (missing,) = network_findings(path, slingshot=True)
    assert not missing.good
    assert missing.value == "no plugin for Slingshot found; NCCL_NET=unset"
    assert 'NCCL_NET="AWS Libfabric"' in missing.remedy
    (tmp_path / "librccl-net.so").touch()
    (found,) = network_findings({**path, "NCCL_NET": "AWS Libfabric"}, slingshot=True)
    assert found.good
    assert found.value == f"{tmp_path}/librccl-net.so; NCCL_NET=AWS Libfabric"
