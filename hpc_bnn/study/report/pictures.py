"""The pictures that ``evaluate`` left, as data URIs: maps under a slider, examples of forecasts."""

import base64
import io
import re
from collections.abc import Sequence

from hpc_bnn.study.report.blocks import Block, Picture, Slider
from hpc_bnn.study.report.folders import Run

MAP = re.compile(r"map_(?P<name>.+)_(?P<hours>[0-9.]+)h\.png")
WIDTH = 1200  # pixels of a map
# What the page draws itself, of all runs together.
DRAWN_HERE = ("loss.png", "scores.png", "ranks.png", "spread_skill.png")


def map_blocks(runs: Sequence[Run]) -> list[Block]:
    """Return the maps of each variable, a slider over lead times for each run."""
    blocks: list[Block] = []
    for run in runs:
        by_name: dict[str, list[tuple[float, bytes]]] = {}
        for file, content in run.pictures.items():
            match = MAP.fullmatch(file)
            if match:
                by_name.setdefault(match["name"], []).append((float(match["hours"]), content))
        of_run = f"{run.name}: " if len(runs) > 1 else ""
        for name, maps in by_name.items():
            maps.sort(key=lambda pair: pair[0])
            labels = [f"{hours:g} h" for hours, _ in maps]
            shown = [
                Picture(uri(smaller(content)), f"{of_run}{name} after {label}")
                for (_, content), label in zip(maps, labels, strict=True)
            ]
            blocks.append(Slider(f"{of_run}{name}", "lead time", labels, shown))
    return blocks


def other_pictures(runs: Sequence[Run]) -> list[Block]:
    """Return the pictures that are neither maps nor drawn by the page itself."""
    blocks: list[Block] = []
    for run in runs:
        replaced = set(DRAWN_HERE)
        replaced |= {"pit.png"} if run.evaluation.get("pit_counts") else set()
        replaced |= {"reliability.png"} if run.evaluation.get("reliability") else set()
        for file, content in run.pictures.items():
            if file not in replaced and not MAP.fullmatch(file):
                of_run = f"{run.name}: " if len(runs) > 1 else ""
                blocks.append(Picture(uri(content), f"{of_run}{file.removesuffix('.png')}"))
    return blocks


def smaller(content: bytes) -> bytes:
    """Return a picture with fewer pixels and colours: of maps there are many."""
    from PIL import Image  # of matplotlib; here, as most pages have no maps

    with Image.open(io.BytesIO(content)) as picture:
        width = min(WIDTH, picture.width)
        size = (width, round(picture.height * width / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.BOX)
    found = io.BytesIO()
    small.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        found, "PNG"
    )
    return min(found.getvalue(), content, key=len)


def uri(content: bytes) -> str:
    """Return a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
