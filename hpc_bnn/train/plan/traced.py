"""Memory that is known before there is a machine that could hold it: tensors without numbers go
through the control flow, network and loss of a step, and through network, loss and exchange of a
validation, of which a small piece is really scored.

Letters: S own samples, B examples scored together.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.config import Settings
from hpc_bnn.data.source import Scale
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.plan.few_passes import FewPasses
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.run.build import Parts, step_settings
from hpc_bnn.train.score.dealing import deal, own_part, slices
from hpc_bnn.train.score.scoring import as_input, as_points, own_examples_at_once, physical
from hpc_bnn.train.step.accumulate import Share, accumulate
from hpc_bnn.verify.tally import TALLIES

PIECE = 1024  # points that are scored to see what scoring takes


def step_bytes(parts: Parts, settings: Settings, grid: Grid) -> int:
    """Return the most memory that a step of one rank takes beyond parameters, optimizer and batch:
    gradients, drawn weights, activations and work space.

    ``parts`` cannot be used afterwards: their tensors lose their numbers.
    """
    posterior, loss, device = parts.posterior, parts.loss, torch.device("cpu")
    # A compiler could make nothing of tensors without numbers.
    chosen = dataclasses.replace(step_settings(settings, parts), compile=False)
    one = parts.source.train.batch(torch.tensor([0]))
    if parts.unroll is not None:
        one = parts.unroll.lengthened(*one, settings.train.longest_rollout)
    examples = len(grid.own_examples(settings.train.batch_size))
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # the mask of fields
    forget_numbers(parts, mode)
    with mode:  # not in the step: rows are counted as parameters
        posterior.initialise()
    # The first pass makes the gradients that the second has to hold; the later ones are like it.
    real = chosen.samples if chosen.keep_graphs else 2
    passes = FewPasses(posterior, World(grid, device), chosen, real=real)
    passes.looks_for_dropout = False  # the states of generators have no numbers here
    with mode:
        x, y = (torch.empty((examples, *each.shape[1:]), dtype=each.dtype) for each in one)
        with LiveMemory() as live:
            share = Share(*chosen.place(x, y, device), 0, 1.0, posterior.complexity)
            accumulate(loss, passes, CountingAxis(grid.sample_ranks), share)
    return int(live.peak)


@dataclasses.dataclass(frozen=True)
class Validation:
    """Bytes of one rank beyond parameters and gradients.

    forecast: the most while members are computed and exchanged. held: forecasts while a slice of
    them is scored. scores: what scoring it takes, on the host.
    """

    forecast: int
    held: int
    scores: int


def validation_bytes(parts: Parts, settings: Settings, grid: Grid) -> Validation:
    """Return the memory of a validation of one rank of ``grid``.

    ``parts`` cannot be used afterwards: their tensors lose their numbers.
    """
    source, posterior, loss = parts.source, parts.posterior, parts.loss
    samples = settings.posterior.samples
    own = len(grid.own_samples(samples))
    posterior.hold(grid.own_samples(samples))
    at_once = own_examples_at_once(
        posterior,
        loss,
        source.output_shape,
        grid,
        samples=samples,
        batch_size=settings.train.batch_size,
    )
    at_once = min(at_once, -(-len(source.validation) // grid.data_ranks))
    one_x, one_y = source.validation.batch(torch.tensor([0]))
    mode = FakeTensorMode()
    forget_numbers(parts, mode)
    with mode:
        posterior.initialise()
    scale = None if source.scale is None else _without_numbers(source.scale, mode)
    tally = TALLIES[source.task]()
    axis: Group = CountingAxis(grid.sample_ranks) if grid.sample_ranks > 1 else ALONE
    known = [*posterior.parameters(), *posterior.buffers(), *loss.parameters(), *loss.buffers()]
    one_sample = posterior.predicting(0, range(at_once))
    with mode, torch.no_grad(), one_sample, LiveMemory(known) as live:
        x, y = (torch.empty((at_once, *one.shape[1:]), dtype=one.dtype) for one in (one_x, one_y))
        x = as_input(posterior, x, torch.device("cpu"))
        key = posterior.key(0, grid.own_samples(samples)[:1], Purpose.PREDICTION)
        member = posterior(x, key)
        outputs = member.new_empty((own, *member.shape[1:]))
        del member
        if own > 1:  # the others are held while one is computed
            posterior(x, key)
        whole = physical(*loss.forecast(outputs), y, scale)
        del x, outputs
        mean, sigma, y = whole if tally.whole_examples else as_points(*whole)
        part = slices(mean, axis)[0]
        everyone = deal(mean[:, part], axis, name="scoring")
        sigmas = None if sigma is None else deal(sigma[:, part], axis, name="scoring")
        target = y[part][own_part(len(y[part]), axis)]
        held = live.now
    points = everyone.shape[1]
    piece = _scored_bytes(source.task, everyone, sigmas, target, min(points, PIECE))
    return Validation(int(live.peak), int(held), piece * points // min(points, PIECE))


def _scored_bytes(
    task: str, members: Tensor, sigmas: Tensor | None, target: Tensor, points: int
) -> int:
    """Return the bytes that scoring so many points of members (K, n, ...) takes."""
    generator = torch.Generator().manual_seed(0)
    shape = (members.shape[0], points, *members.shape[2:])
    real = torch.rand(shape, dtype=members.dtype, generator=generator)
    spread = None if sigmas is None else real + 1
    truth = torch.zeros((points, *target.shape[1:]), dtype=target.dtype)
    tally = TALLIES[task]()
    with LiveMemory([real, truth] if spread is None else [real, spread, truth]) as live:
        tally.add(real, spread, truth)
    return int(live.peak)


def _without_numbers(scale: Scale, mode: FakeTensorMode) -> Scale:
    mean, std = (mode.from_tensor(tensor) for tensor in (scale.mean, scale.std))
    return dataclasses.replace(scale, mean=mean, std=std)


def forget_numbers(parts: Parts, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by ones of the same shape that hold nothing."""
    for layer in (*parts.posterior.modules(), *parts.loss.modules()):
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter.detach())
                layer._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = mode.from_tensor(buffer)
    parts.posterior.writes_to_input = False  # only a first pass copies its input to find out
