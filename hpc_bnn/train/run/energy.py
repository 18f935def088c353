"""The energy that a node has used, from the counters of its processors and GPUs.

Processors: RAPL package counters, in microjoules, under /sys/class/powercap (Linux; since 5.10
readable by root only, unless the site allows it), of Intel and AMD. GPUs: the total energy counter
of NVML, in millijoules (NVIDIA, Volta and later). What cannot be read is not guessed: no counter,
no figure.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Energy:
    """An energy, and which counters it is the sum of: ``package`` (processors), ``gpu``."""

    joules: float
    of: tuple[str, ...]


class EnergyMeter:
    """Sums what the counters of a node advance by; ``read`` often enough that none wraps twice.

    Parameters
    ----------
    packages
        Whether to read the processors: by one rank of a node.
    device
        The GPU of this rank is read; no other.
    powercap
        Where the counters of the processors are.
    """

    def __init__(self, device: torch.device, *, packages: bool, powercap: Path = POWERCAP) -> None:
        self._counters: dict[str, list[_Counter]] = {}
        if packages:
            self._counters["package"] = _package_counters(powercap)
        if device.type == "cuda":
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._counters["gpu"] = _gpu_counter(uuid)

    def read(self) -> Energy | None:
        """Return the energy since the meter was made; None where there is no counter, or one of
        them failed since: no run ends for that.
        """
        try:
            joules = {of: [c.read() for c in own] for of, own in self._counters.items() if own}
        except (OSError, ValueError):
            self._counters = {}
            return None
        return Energy(sum(map(sum, joules.values())), tuple(joules)) if joules else None


def total(firsts: Sequence[Energy | None], others: Sequence[Energy | None]) -> Energy | None:
    """Return the energy of a job from what the first rank of each node read, and the other ranks
    with a GPU; None where one of them cannot read what the others can: half a figure.
    """
    found = [energy for energy in (*firsts, *others) if energy is not None]
    kinds = {energy.of for energy in firsts if energy is not None}
    if len(found) < len(firsts) + len(others) or len(kinds) != 1:
        return None
    (of,) = kinds
    if others and "gpu" not in of:
        return None
    return Energy(sum(energy.joules for energy in found), of)


class _Counter:
    """One counter, in ``unit`` joules, that starts again at ``limit`` (0: never)."""

    def __init__(self, value: Callable[[], int], *, unit: float, limit: int) -> None:
        self._value, self._unit, self._limit = value, unit, limit
        self._last, self._total = value(), 0

    def read(self) -> float:
        now = self._value()
        self._total += now - self._last if now >= self._last else now - self._last + self._limit
        self._last = now
        return self._total * self._unit


def _package_counters(powercap: Path) -> list[_Counter]:
    """Return the counters of whole packages: intel-rapl:N, without their parts intel-rapl:N:M and
    without psys, the platform, which contains them.
    """
    found = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if folder.name.count(":") > 1:
            continue
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue
            limit = int((folder / "max_energy_range_uj").read_text())
            found.append(_Counter(_reader(folder / "energy_uj"), unit=1e-6, limit=limit))
        except (OSError, ValueError):  # no permission, or no such counter
            return []  # some packages without the others would be half a figure
    return found


def _reader(path: Path) -> Callable[[], int]:
    return lambda: int(path.read_text())


def _gpu_counter(uuid: str) -> list[_Counter]:
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return []
    handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    name = (uuid if uuid.startswith("GPU-") else f"GPU-{uuid}").encode()

    def value() -> int:
        if nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
            raise OSError(f"NVML: GPU {uuid} has no energy counter")
        return millijoules.value

    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return []
    try:
        return [_Counter(value, unit=1e-3, limit=0)]
    except OSError:
        return []
