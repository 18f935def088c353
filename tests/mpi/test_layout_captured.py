"""Captured passes on several ranks: gradients that come without hooks are reduced all the same,
also where one rank alone captures.

The recorder of operators for CPUs stands in for a GPU (``tests/unit/train/tape.py``).
"""

import pytest
from small_run import Recipe, deviation, reference, run
from tape import Tape, noise_on_tape

from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.step import Step

LOSSES = ["gaussian expected learned", "almost fair crps transposed"]


@pytest.mark.both_engines
@pytest.mark.parametrize(("everywhere", "reduction"), [(True, "world"), (False, "two_stage")])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_answer_is_that_of_one_rank_without(
    world: World, loss: str, reduction: str, everywhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(loss, steps=4, reduction=reduction, samples_per_pass=1, clip_norm=0.5)
    expected, tape = reference(recipe), Tape()
    noise_on_tape(tape, monkeypatch)

    def change(step: Step) -> None:
        if everywhere or world.grid.world_rank == 0:
            step._capture.recorder = tape

    got = run(recipe, world, change)
    assert bool(tape.replays) == (everywhere or world.grid.world_rank == 0)
    for name in ("losses", "gradients", "parameters"):
        assert deviation(getattr(got, name), getattr(expected, name)) <= 1e-10, name
