"""What the tests of pictures share."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are saved, at a resolution that keeps the tests fast."""
    figures: list[Figure] = []
    save = Figure.savefig

    def collect(figure: Figure, *arguments: object, **settings: object) -> None:
        figures.append(figure)
        save(figure, *arguments, **{**settings, "dpi": 40})  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", collect)
    return figures
