"""Measures kernels and steps on a device and prints two tables, last of all.

    python tests/gpu/figures.py --device cuda --out FOLDER [--seconds 200]

``--device cpu`` is a dry run with tiny sizes. ``FOLDER/figures.json`` is written after each row, so
that a visit that is cut short leaves what it has.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "bench")]

from noise_figures import Row, noise_rows
from report import machine, table
from step_figures import step_rows


def main() -> None:
    parser = argparse.ArgumentParser(description="figures of kernels and steps")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=200.0, help="no row is begun later")
    options = parser.parse_args()
    device = torch.device(options.device)
    tiny = device.type == "cpu"
    begin = time.perf_counter()
    where = machine()
    if not tiny:
        where["gpu"] = torch.cuda.get_device_name(device)
    document: dict[str, object] = {"machine": where, "complete": False}
    options.out.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[Row]] = {"noise": [], "steps": []}
    for name, rows in (("noise", noise_rows), ("steps", step_rows)):
        for row in rows(device, tiny=tiny):
            tables[name].append(row)
            write(options.out, document | tables)
            if time.perf_counter() - begin > options.seconds:
                break
        else:
            continue
        break
    else:
        document["complete"] = True
    write(options.out, document | tables)
    print(" ".join(f"{key}: {value}" for key, value in where.items()))
    for rows in tables.values():
        for row in rows:
            if "failed" in row:
                print(f"{row['network']}, {row['precision']}, {row['mode']}: {row.pop('failed')}")
        print(f"\n{table(rows)}" if rows else "")
    if not document["complete"]:
        print(f"cut short after {options.seconds:.0f} s")


def write(folder: Path, document: dict[str, object]) -> None:
    (folder / "figures.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
