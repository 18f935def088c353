"""What fits a SWIN: refusals of shapes and options, each with what would."""

from collections.abc import Sequence


def field_shape(which: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return channels, rows and columns of the ``which`` of a network."""
    if len(shape) != 3:
        raise ValueError(f"model.swin: {which} of shape {tuple(shape)}: expected (C, H, W)")
    return shape[0], shape[1], shape[2]


def check_options(
    width: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: Sequence[int],
    channels: int,
    vector_channels: Sequence[int],
) -> None:
    """Refuse depths, heads, windows and vector channels that do not fit."""
    if len(depths) != 4 or len(heads) != 4:
        raise ValueError(
            f"model.depths = {list(depths)}, model.heads = {list(heads)}: expected four of each"
        )
    if any(depth < 0 or depth % 2 for depth in depths):
        raise ValueError(
            f"model.depths = {list(depths)}: expected even numbers, one shifted block after each "
            "unshifted one"
        )
    if len(window) != 2 or min(window) < 1:
        raise ValueError(f"model.window = {list(window)}: expected rows and columns of at least 1")
    for i, count in enumerate(heads):
        tokens = width if i in (0, 3) else 2 * width
        if count < 1 or tokens % count:
            raise ValueError(
                f"model.heads = {list(heads)}: {count} heads must divide the {tokens} channels of "
                f"stage {i + 1}; change heads or width"
            )
    if any(not 0 <= channel < channels for channel in vector_channels):
        raise ValueError(
            f"model.vector_channels = {list(vector_channels)}: the input has channels 0 to "
            f"{channels - 1}"
        )


def check_columns(columns: int, breadth: int, stride: int) -> None:
    """Refuse a global grid whose circle of longitude is not cut evenly by windows whose tokens are
    ``stride`` points wide.
    """
    if columns % (stride * breadth) == 0:
        return
    fitting = [b for b in range(1, columns // stride + 1) if columns % (stride * b) == 0]
    advice = (
        f"window widths that fit: {', '.join(map(str, fitting))}"
        if fitting
        else f"the number of longitudes must be a multiple of {stride}"
    )
    raise ValueError(
        f"model.window: {breadth} tokens wide = {stride * breadth} of {columns} longitudes: a "
        f"circle of longitude must hold whole windows; {advice}"
    )
