"""Noise on initial states. To add a pattern: a file here and a line in PATTERNS; called as
pattern(latitude, longitude, periodic, **options).
"""

from collections.abc import Callable

from hpc_bnn.fields.perturb.gaussian import Gaussian
from hpc_bnn.fields.perturb.pattern import Pattern
from hpc_bnn.fields.perturb.spherical import Spherical

PATTERNS: dict[str, Callable[..., Pattern]] = {"gaussian": Gaussian, "spherical": Spherical}

GIVEN_TO_PATTERNS = ("latitude", "longitude", "periodic")

__all__ = ["GIVEN_TO_PATTERNS", "PATTERNS", "Gaussian", "Pattern", "Spherical"]
