"""Makes the scripts of ``tests/bench`` importable; last, so that they hide no other module."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "bench"))
