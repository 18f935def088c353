"""Whether launcher and network settings are what GPUs need: each rank on cores of its own, beside
its GPU, in an order that suits the grid; NCCL on the fast network, and Cray's MPI not in its way.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hpc_bnn.parallel.placement import placement_problem
from hpc_bnn.parallel.site import Site
from hpc_bnn.study.software import Finding

PCI = Path("/sys/bus/pci/devices")
SLINGSHOT = Path("/sys/class/cxi")
# What NCCL and RCCL load to reach a network that they do not know: of this name, in a library path.
PLUGINS = ("libnccl-net", "librccl-net", "libnccl-net-ofi", "librccl-net-ofi")


def cores_beside(gpu: int) -> frozenset[int]:
    """Return the cores on whose memory a visible GPU hangs; none where the system does not say."""
    facts = torch.cuda.get_device_properties(gpu)
    numbers = [getattr(facts, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
    if None in numbers:
        return frozenset()
    domain, bus, device = numbers
    path = PCI / f"{domain:04x}:{bus:02x}:{device:02x}.0" / "local_cpulist"
    return cpus(path.read_text(encoding="utf-8")) if path.is_file() else frozenset()


def cpus(text: str) -> frozenset[int]:
    """Return the numbers of a list as Linux writes it: ``0-3,8``."""
    parts = [part.split("-") for part in text.strip().split(",") if part]
    return frozenset(n for part in parts for n in range(int(part[0]), int(part[-1]) + 1))


def is_binding_asked(environment: Mapping[str, str], site: Site) -> bool:
    """Tell whether srun started this process, on a site whose job scripts ask it to bind ranks."""
    return "SLURM_STEP_ID" in environment and any("cpu-bind" in word for word in site.binding)


def binding_problem(
    cores: Sequence[frozenset[int]], beside: Sequence[frozenset[int]], *, asked: bool
) -> str:
    """Return what is wrong with the cores of the ranks of one node, "" where nothing is.

    Parameters
    ----------
    cores
        Those that each rank may use, in the order of the node ranks.
    beside
        Those beside the GPU that it computes on; empty: unknown.
    asked
        As ``is_binding_asked``.
    """
    if len(cores) > 1 and len(set(cores)) == 1:
        return "no rank is bound, and this site's job scripts ask for it" if asked else ""
    for rank, own in enumerate(cores):
        for other in range(rank):
            shared = own & cores[other]
            if shared:
                return f"node ranks {other} and {rank} share {len(shared)} core(s)"
    for rank, (own, near) in enumerate(zip(cores, beside, strict=True)):
        if near and not own & near:
            return f"node rank {rank} computes on a GPU beside other cores than its own"
    return ""


def order_finding(hosts: Sequence[str]) -> list[Finding]:
    """Say whether neighbours in rank lie on one node, for the grid that is the default there."""
    first: dict[str, int] = {}
    nodes = [first.setdefault(host, rank) for rank, host in enumerate(hosts)]
    on_first = nodes.count(0)
    if len(first) == 1 or len(nodes) % on_first:
        return []
    problem = placement_problem(nodes, on_first)
    text = problem or "in blocks: the ranks of a node are neighbours"
    return [Finding("order of ranks", text, problem is None, "the samples of one batch meet often")]


def network_findings(environment: Mapping[str, str], *, slingshot: bool) -> list[Finding]:
    """Say what NCCL or RCCL would use on a Slingshot network, and whether Cray's MPI is in its way.

    Both fall back to TCP without a word where the plugin for that network is not found.
    """
    findings = []
    if environment.get("MPICH_GPU_SUPPORT_ENABLED", "0") != "0":
        text = "MPICH_GPU_SUPPORT_ENABLED is set: Cray's MPI and NCCL can wait for each other"
        remedy = "export MPICH_GPU_SUPPORT_ENABLED=0 (job scripts do), as no tensor goes by MPI"
        findings.append(Finding("Cray MPI and GPUs", text, False, remedy))
    if slingshot:
        plugin = _plugin(environment)
        wish = environment.get("NCCL_NET", "")
        text = f"{plugin or 'no plugin for Slingshot found'}; NCCL_NET={wish or 'unset'}"
        remedy = (
            "load the module of the OFI plugin (aws-ofi-nccl, aws-ofi-rccl, rccl-net-plugin) and "
            'export NCCL_NET="AWS Libfabric": NCCL then fails without it, instead of taking TCP'
        )
        findings.append(Finding("NCCL's network", text, bool(plugin), remedy))
    return findings


def here() -> list[Finding]:
    """Return the network findings of this process."""
    slingshot = torch.cuda.is_available() and SLINGSHOT.is_dir()
    return network_findings(os.environ, slingshot=slingshot)


def _plugin(environment: Mapping[str, str]) -> str:
    named = environment.get("NCCL_NET_PLUGIN", "")
    folders = environment.get("LD_LIBRARY_PATH", "").split(":")
    for folder in filter(None, folders):
        for name in (*PLUGINS, f"libnccl-net-{named}"):
            if (Path(folder) / f"{name}.so").exists():
                return str(Path(folder) / f"{name}.so")
    return named if Path(named).is_file() else ""
