"""Area of the cells of a latitude-longitude grid: what a mean over the globe weighs its rows with.

    area(phi_i) ~ sin(phi_{i+1/2}) - sin(phi_{i-1/2})

with bounds half-way between rows, and half a step beyond the outermost rows but never beyond a
pole. Unlike cos(phi), which gives a row on the pole no weight at all, this is the area of the cap
(WeatherBench 2, Rasp et al. 2024, doi:10.1029/2023MS004019).

Letters: H latitude rows, north to south.
"""

import torch
from torch import Tensor


def cell_area(latitude: Tensor) -> Tensor:
    """Compute the area (H,) float64, of mean 1, of the cells around latitudes (H,) in degrees.

    On a global grid the areas cover the sphere. A single row has weight 1.

    Raises
    ------
    ValueError
        If the latitudes do not fall from row to row or leave [-90, 90].
    """
    degrees = latitude.detach().double()
    if degrees.dim() != 1 or len(degrees) == 0:
        raise ValueError(
            f"cell_area: latitude {tuple(latitude.shape)}: expected (H,) with at least one row"
        )
    if not bool((degrees.abs() <= 90).all()) or not bool((degrees.diff() < 0).all()):
        raise ValueError(
            f"cell_area: {len(degrees)} latitudes from {float(degrees[0]):g} to "
            f"{float(degrees[-1]):g}: expected degrees between 90 and -90, falling from row to row "
            "(north to south); flip the rows of latitude and fields"
        )
    if len(degrees) == 1:
        return torch.ones_like(degrees)
    steps = -degrees.diff()
    north = (degrees[:1] + steps[:1] / 2).clamp(max=90)
    south = (degrees[-1:] - steps[-1:] / 2).clamp(min=-90)
    bounds = torch.cat([north, (degrees[:-1] + degrees[1:]) / 2, south]).deg2rad()
    # sin a - sin b = 2 cos((a + b) / 2) sin((a - b) / 2) keeps all digits of the small polar cells.
    area = torch.cos((bounds[:-1] + bounds[1:]) / 2) * torch.sin((bounds[:-1] - bounds[1:]) / 2)
    return area / area.mean()
