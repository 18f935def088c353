"""The notebooks of the guide: explained, without outputs, and their cells run in order."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from launch import Job
from PIL import Image

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

GUIDE = Path(__file__).parents[2] / "hpc_bnn" / "guide"
NAMES = ("digits", "series", "weather")
LIMIT_S = 300.0  # each takes less than half a minute of one core
# Every picture is drawn where Jupyter would show it.
DRAWN = "import matplotlib.pyplot; matplotlib.pyplot.show = lambda: drawn.append(save())\n"
BEGIN = f"""import matplotlib; matplotlib.use("agg")
drawn = []
def save():
    path = f"shown_{{len(drawn)}}.png"
    matplotlib.pyplot.savefig(path)
    matplotlib.pyplot.close("all")
    return path
{DRAWN}"""


def cells(name: str) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = json.loads((GUIDE / f"{name}.ipynb").read_text())["cells"]
    return held


def code_of(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]


def test_each_notebook_is_run() -> None:
    assert sorted(path.stem for path in GUIDE.glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_format_of_jupyter(name: str) -> None:
    """Version 4.5: ids, no outputs; plain Python, so that it also runs without Jupyter."""
    content = json.loads((GUIDE / f"{name}.ipynb").read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["language"] == "python"
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)
    kinds = [cell["cell_type"] for cell in content["cells"]]
    assert kinds[0] == "markdown" and kinds.count("markdown") >= kinds.count("code") / 2
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            ast.parse("".join(cell["source"]))


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str, tmp_path: Path) -> None:
    code = "\n\n".join([BEGIN, *code_of(name)])
    (tmp_path / "cells.py").write_text(code, encoding="utf-8")
    ended = Job(tmp_path / "cells.py", ranks=0, cwd=tmp_path).wait(LIMIT_S)
    assert ended.status == 0, ended.text
    assert "nan" not in ended.out.split()
    shown = sorted(tmp_path.glob("shown_*.png"))
    assert len(shown) == sum(len(re.findall(r"^(?:plt\.)?show\(", c, re.M)) for c in code_of(name))
    for path in shown:  # more than an empty frame
        assert len(Image.open(path).convert("RGB").getcolors(1 << 20)) > 10
    check = {"digits": learned_digits, "series": beats_yesterday, "weather": beats_persistence}
    check[name](ended.out)


def learned_digits(out: str) -> None:
    accuracy, right, wrong, strange, usual = (
        float(number)
        for pattern in (
            r"test accuracy (\S+)",
            r"entropy (\S+) nats where right, (\S+) where wrong",
            r"shifted images (\S+) nats, of test images (\S+)",
        )
        for number in re.search(pattern, out).groups()  # type: ignore[union-attr]
    )
    assert accuracy > 0.93
    assert wrong > 2 * right
    assert strange > 2 * usual


def beats_yesterday(out: str) -> None:
    (better,) = re.findall(r"CRPS (\d+)% below that of the day before", out)
    assert int(better) > 40
    (inside,) = re.findall(r"^  coverage_90 +(\S+) \(0.9 asked\)$", out, re.MULTILINE)
    assert 0.8 < float(inside) < 0.99
    low, high = re.findall(r"peak of tomorrow: (\S+) to (\S+) MW", out)[0]
    assert 50 < float(low) < float(high) < 75  # 50 + 10 or so, and noise


def beats_persistence(out: str) -> None:
    rows = re.findall(r"^(?:t2m|z500) .*$", out, re.MULTILINE)
    assert len(rows) == 4
    for row in rows:
        _, _, _, rmse, persistence, _, crps, naive, *_ = row.split()
        assert float(rmse) < float(persistence)
        assert float(crps) < float(naive)
