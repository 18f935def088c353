"""Skill: what share of a reference's score a forecast saves.

    skill = 1 - score / score of the reference

1 is perfect, 0 as good as the reference, negative worse. Of the CRPS it is the CRPSS; of the RMSE,
not of its square, the RMSE skill (WeatherBench 2, Rasp et al. 2024, doi:10.1029/2023MS004019). Both
scores are means over the same points and starts: means are divided, quotients are not averaged.

Letters: `...` any shape, such as lead times.
"""

import torch
from torch import Tensor


def skill(score: Tensor, reference: Tensor) -> Tensor:
    """Compute the skill (...) float64 of a score (...) that is 0 at best; NaN where the reference
    is perfect, so that there is nothing to save.
    """
    reference = reference.double()
    return torch.where(reference == 0, torch.nan, 1 - score.double() / reference)
