"""Promises of makers' data sheets for known cards, and the share that a healthy card reaches."""

from __future__ import annotations

from dataclasses import dataclass

COPIES = 0.7
"""Least share of a card's bandwidth that copies within its memory reach, read and written.

gpt-fast's README (https://github.com/meta-pytorch/gpt-fast) finds 1,700 of 2,039 GB/s on an A100 held to 330 W, 83 %,
and FlashMLA's (https://github.com/deepseek-ai/FlashMLA) 3,000 of 3,350 GB/s on an H800; memory that corrects errors in
line (GDDR6) loses some percent more. This lies well below them: a card that misses it has lost memory channels or
clock.
"""
PRODUCTS = 0.5
"""Least share of a card's rate of dense bfloat16 products that it reaches.

Large products lose a third of the rate to power and to their ends, and a clock that passes its own check may be a
quarter lower. A rate below half has another cause. Not measured here yet.
"""


@dataclass(frozen=True)
class Datasheet:
    """Rates that the data sheet of one card promises."""

    bandwidth: float
    """Bytes per second between its memory and its processors."""
    products: float | None
    """Dense bfloat16 FLOP/s; the sheets print twice as much, with sparsity. None where no card holds it for long."""


DATASHEETS = {
    "NVIDIA A100-SXM4-40GB": Datasheet(1555e9, 312e12),  # NVIDIA A100 datasheet of 2020
    "NVIDIA A100-PCIE-40GB": Datasheet(1555e9, 312e12),  # the same
    "NVIDIA A100-SXM4-80GB": Datasheet(2039e9, 312e12),  # NVIDIA A100 datasheet of 2021
    "NVIDIA A100 80GB PCIe": Datasheet(1935e9, 312e12),  # the same
    "NVIDIA H100 80GB HBM3": Datasheet(3350e9, 989e12),  # NVIDIA H100 datasheet, H100 SXM: 1,979 with sparsity
    "NVIDIA H100 PCIe": Datasheet(2000e9, 756e12),  # NVIDIA H100 datasheet, H100 PCIe: 1,513 with sparsity
    "NVIDIA H100 NVL": Datasheet(3900e9, 835e12),  # NVIDIA H100 datasheet, H100 NVL: 1,671 with sparsity
    "NVIDIA H200": Datasheet(4800e9, 989e12),  # NVIDIA H200 datasheet, H200 SXM: 1,979 with sparsity
    "NVIDIA L4": Datasheet(300e9, None),  # NVIDIA L4 datasheet: 242 with sparsity, which 72 W do not hold
    "NVIDIA L40S": Datasheet(864e9, 362e12),  # NVIDIA L40S datasheet: 733 with sparsity
    "NVIDIA B200": Datasheet(
        8000e9, 2250e12
    ),  # NVIDIA DGX B200 datasheet, an eighth: 64 TB/s, 36 PFLOP/s with sparsity
}
"""Data sheets by the exact name that torch reports. Nothing is promised for a slice (MIG), whose name is longer."""
