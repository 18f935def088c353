"""The memory that is told before a run, against the memory that the same step takes."""

import copy
import platform
from dataclasses import replace
from typing import Any

import pytest
import torch

from hpc_bnn.config import CONFIGS, Settings, load_settings
from hpc_bnn.data.source import InMemory, Source
from hpc_bnn.fields.outline import source_without_files
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.estimate import GIB, Estimate, estimate, host_bytes, told, verdict
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.plan.traced import Validation, step_bytes
from hpc_bnn.train.run.build import build, read_source, step_settings
from hpc_bnn.train.step.step import Step

MIB = 1 << 20
VIT = ["data={name: digits}", "model.patch=2", "model.width=24", "model.depth=2"]
SWIN = [
    "model={name: swin, width: 16, depths: [2, 0, 0, 0], heads: [2, 2, 2, 2], window: [2, 4]}",
    "data.variables=[t2m, z500]",
    "data.levels=[]",
    "data.static=[]",
    "loss={name: almost_fair_crps}",
    "train.precision=float32",
]
COMMON = ["train.batch_size=6", "posterior.samples=4", "train.guard_every=0"]


def settings_of(config: str, *overrides: str) -> Settings:
    return load_settings(CONFIGS / config, [*COMMON, *overrides])


def source_of(settings: Settings) -> Source:
    if settings.data.name != "era5":
        return read_source(settings, ALONE)
    wanted: dict[str, Any] = {"variables": ["t2m", "z500"], "step_hours": 24}
    source = source_without_files(16, 32, **wanted)
    x, y = source.train.batch(torch.tensor([0]))
    examples = InMemory(torch.randn(12, *x.shape[1:]), y.repeat(12, 1, 1, 1))
    return replace(source, train=examples, validation=examples)


def measured(settings: Settings, source: Source) -> int:
    """Return the most that the tensors of a second step take: the first makes Adam's state."""
    parts = build(settings, source)
    world, optimizer = World(Grid(1, 1, 0), torch.device("cpu")), parts.optimizer(1e-3)
    step = Step(parts.posterior, parts.loss, optimizer, world, step_settings(settings, parts))
    x, y = source.train.batch(torch.arange(settings.train.batch_size))
    if parts.unroll is not None:
        x, y = parts.unroll.lengthened(x, y, settings.train.longest_rollout)
    step(x, y)
    with LiveMemory() as live:
        step(x, y)
    return live.peak


CASES = {
    "swin, every sample twice": ("swin_era5.yaml", SWIN),
    "swin, graphs and noise kept": (
        "swin_era5.yaml",
        [*SWIN, "posterior.keep_graphs=true", "posterior.keep_noise=true"],
    ),
    "swin, recomputed": ("swin_era5.yaml", [*SWIN, "model.recompute=true"]),
    "swin, bf16": ("swin_era5.yaml", [*SWIN, "train.precision=bf16"]),
    "swin, nll, float64": (
        "swin_era5.yaml",
        [*SWIN, "loss={name: gaussian_nll, variance: learned}", "train.precision=float64"],
    ),
    "swin, rollout": ("swin_era5.yaml", [*SWIN, "train.rollout={0: 1, 2: 3}"]),
    "swin, rollout, samples together": (
        "swin_era5.yaml",
        [*SWIN, "train.rollout={0: 3}", "posterior.samples_per_pass=2"],
    ),
    "vit": ("vit_cifar10.yaml", VIT),
    "vit, samples together": ("vit_cifar10.yaml", [*VIT, "posterior.samples_per_pass=4"]),
    "mlp": ("mlp_series.yaml", ["model={name: mlp, hidden: [512, 512]}"]),
    "mlp, keyed dropout": ("mlp_series.yaml", ["model={name: mlp, hidden: [512], dropout: 0.2}"]),
    "mlp, the later passes not run": (
        "mlp_series.yaml",
        ["model={name: mlp, hidden: [64]}", "loss={name: crps}", "posterior.samples=8"],
    ),
    **{
        f"{name}, normalised windows": (
            "mlp_series.yaml",
            [f"model={{name: {name}, {options}}}", "data.channels=3", "data.normalize=window"],
        )
        for name, options in (
            ("residual_mlp", "width: 300, dropout: 0"),
            ("patch_transformer", "width: 32"),
        )
    },
}


def test_a_compiled_network_is_traced_as_it_is() -> None:
    model = "model={name: mlp, hidden: [64]}"
    found = []
    for compiled in ("false", "true"):
        settings = settings_of("mlp_series.yaml", model, f"train.compile={compiled}")
        source = source_of(settings)
        found.append(step_bytes(build(settings, source), settings, Grid(1, 1, 0)))
    assert found[0] == found[1]


@pytest.mark.parametrize("case", CASES)
def test_a_step_takes_what_was_told(case: str) -> None:
    config, overrides = CASES[case]
    settings = settings_of(config, *overrides)
    source = source_of(settings)
    expected = measured(settings, source)
    found = step_bytes(build(settings, source), settings, Grid(1, 1, 0))
    assert found == pytest.approx(expected, rel=0.03)


def test_more_ranks_need_less_each_and_a_buffer_for_exchanges() -> None:
    settings = settings_of("vit_cifar10.yaml", *VIT)
    source = source_of(settings)
    one = estimate(settings, source, Grid(1, 1, 0))
    four = estimate(settings, source, Grid(2, 2, 0))
    assert one.exchange == 0
    assert four.exchange == one.optimizer // 2, "the gradients are one bucket"
    assert four.batch == one.batch // 2
    assert one.step > four.step > 0
    parts = build(settings, source)
    values = [*parts.posterior.parameters(), *parts.loss.parameters()]
    assert one.optimizer == 8 * sum(p.numel() for p in values if p.requires_grad)


def test_on_cpus_what_malloc_loses_is_added_where_it_loses_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("mlp_series.yaml")
    source = source_of(settings)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    losing = estimate(settings, source, Grid(1, 1, 0))
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    keeping = estimate(settings, source, Grid(1, 1, 0))
    assert keeping.lost == 0
    assert losing.lost == (losing.step // 3 if platform.libc_ver()[0] == "glibc" else 0)
    assert losing.gpu_bytes == keeping.gpu_bytes


def test_an_optimizer_of_one_moment_holds_half() -> None:
    settings = settings_of("vit_cifar10.yaml", *VIT)
    source = source_of(settings)
    adam, sgd = (
        estimate(
            settings_of("vit_cifar10.yaml", *VIT, f"optimizer.name={name}"), source, Grid(1, 1, 0)
        )
        for name in ("adam", "sgd")
    )
    assert (
        adam.optimizer == estimate(settings, source, Grid(1, 1, 0)).optimizer == 2 * sgd.optimizer
    )
    assert adam.validation_cpu_bytes == sgd.validation_cpu_bytes


def test_the_source_and_the_settings_stay_as_they_were() -> None:
    settings = settings_of("mlp_series.yaml")
    source = source_of(settings)
    before = copy.deepcopy(source.train.batch(torch.tensor([3])))
    estimate(settings, source, Grid(1, 1, 0))
    assert all(map(torch.equal, before, source.train.batch(torch.tensor([3]))))


def test_live_memory_counts_what_is_alive_and_the_most_there_was() -> None:
    with LiveMemory() as live:
        a = torch.zeros(MIB, dtype=torch.uint8)
        b = a + 1
        c = b[:5]  # shares the memory of b
        del a
        assert live.now == MIB
        del b
        assert live.now == MIB
        del c
    assert (live.now, live.peak) == (0, 2 * MIB)


@pytest.mark.parametrize("gpu", [True, False])
def test_the_verdict_says_whether_a_rank_fits(gpu: bool) -> None:
    found = Estimate(GIB, GIB, 2 * GIB, 3 * GIB, GIB, 0, lost=GIB)
    need = 9 if gpu else 12  # three batches; on a CPU four, the process, what malloc loses
    assert verdict(found, gpu=gpu, capacity=need * GIB)[1]
    text, fits = verdict(found, gpu=gpu, capacity=need * GIB - 1)
    assert not fits
    assert "does not fit: 100% of the" in text
    assert "model.recompute" in text
    assert verdict(found, gpu=gpu, capacity=0) == (
        "no device to compare with: give --device-memory GIB",
        True,
    )


def test_a_validation_counts_where_it_needs_more_than_a_step() -> None:
    validation = Validation(forecast=4 * GIB, held=2 * GIB, scores=3 * GIB)
    found = Estimate(GIB, GIB, 2 * GIB, 3 * GIB, GIB, 0, validation=validation)
    assert found.validation_gpu_bytes == 5 * GIB, "gradients are the half of the optimizer"
    assert found.gpu_bytes == (1 + 2 + 5 + 3) * GIB
    assert found.validation_cpu_bytes == 6 * GIB, "scores are computed on the host"
    assert found.cpu_bytes == (1 + 1 + 2 + 6 + 4) * GIB
    larger = replace(found, step=6 * GIB)
    assert (larger.gpu_bytes, larger.cpu_bytes) == (12 * GIB, 14 * GIB)
    settings = settings_of("mlp_series.yaml")
    lines = {gpu: told(found, settings, Grid(1, 1, 0), gpu=gpu) for gpu in (True, False)}
    assert "  validation, in place of a step          6.00 GiB" in lines[False]
    on_gpu = "  validation, in place of a step          5.00 GiB (and on the host:      3.00 GiB)"
    assert on_gpu in lines[True]


def test_the_memory_of_a_job_is_that_of_its_limits() -> None:
    unlimited = host_bytes({})
    assert host_bytes({"SLURM_MEM_PER_CPU": "200", "SLURM_CPUS_ON_NODE": "2"}) == 400 * MIB
    assert host_bytes({"SLURM_MEM_PER_NODE": "300"}) == 300 * MIB
    both = {"SLURM_MEM_PER_NODE": "300", "SLURM_MEM_PER_CPU": "200", "SLURM_CPUS_ON_NODE": "1"}
    assert host_bytes(both) == 200 * MIB
    assert host_bytes({"SLURM_MEM_PER_CPU": "200"}) == unlimited, "of how many CPUs is not said"
    assert host_bytes({"SLURM_MEM_PER_CPU": "200", "SLURM_CPUS_ON_NODE": "x"}) == unlimited
