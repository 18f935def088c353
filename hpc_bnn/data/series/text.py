"""Open a CSV file as text: UTF-8, or UTF-16 and UTF-32 by their marks; name what else it is."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

# First bytes of files that are no text, what they are, and what to do.
_OTHERS = (
    (b"\x1f\x8b", "gzip", "unpack it first, for example with gunzip"),
    (b"BZh91AY&SY", "bzip2", "unpack it first, for example with bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unpack it first, for example with unxz"),
    (b"\x28\xb5\x2f\xfd", "zstandard", "unpack it first, for example with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "unpack it first"),
    (b"PK\x03\x04", "zip or an Excel workbook", "unpack it, or save the sheet as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save the sheet as CSV UTF-8"),
    (b"PAR1", "Parquet", "write it as CSV"),
    (b"\x89HDF", "HDF5 or netCDF", "write the series as CSV"),
    (b"CDF\x01", "netCDF", "write the series as CSV"),
    (b"%PDF", "PDF", "write the table as CSV"),
)
# UTF-32 before UTF-16, whose little-endian mark begins alike. Their codecs drop the mark.
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def open_text(path: Path) -> TextIO:
    """Open a CSV file for reading.

    Raises
    ------
    ValueError
        If its first bytes are not those of text.
    """
    with path.open("rb") as file:
        first = file.read(4096)
    for magic, what, remedy in _OTHERS:
        if first.startswith(magic):
            raise ValueError(f"{path}: is {what}, no text; expected a CSV file in UTF-8; {remedy}")
    if first.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError(
            f"{path}: is a web page, such as a failed download leaves; expected a CSV file; "
            "download it again"
        )
    encoding = next((encoding for mark, encoding in _MARKS if first.startswith(mark)), None)
    if encoding is None and b"\x00" in first:
        raise ValueError(
            f"{path}: holds bytes of zero, like UTF-16 without a byte order mark; expected a CSV "
            "file in UTF-8; convert it, for example with iconv -f utf-16le -t utf-8"
        )
    # utf-8-sig drops the byte order mark that spreadsheet programs write.
    return path.open(encoding=encoding or "utf-8-sig", newline="")


def decoding_error(path: Path, error: UnicodeDecodeError) -> ValueError:
    """Say which byte is no text."""
    if error.encoding.startswith("utf-8"):
        return ValueError(
            f"{path}: byte 0x{error.object[error.start]:02x} is not UTF-8 text; "
            "expected a CSV file in UTF-8; convert it, for example with iconv -f latin1 -t utf-8"
        )
    return ValueError(
        f"{path}: broken {error.encoding.upper()} text ({error.reason}); expected what its byte "
        "order mark says; write the file again, in UTF-8"
    )
