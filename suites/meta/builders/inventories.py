"""Inventories of made-up machines."""

from __future__ import annotations

from harness.machine.inventory import Inventory

CPU = Inventory(
    {"cpu": 1}, "torch is built without CUDA", {"transformers": "5.22.2", "kernels": "0.17.2"}, "/usr/bin/g++"
)


TOOLS = {name: f"/usr/bin/{name}" for name in ("C compiler", "Python.h", "C++ compiler", "ninja", "nvcc")}


GPU = Inventory({"cuda": 1, "cpu": 1}, "", CPU.packages, "", tools=TOOLS)


EVERY_PACKAGE = {
    "torch": "2.13.0",
    "transformers": "5.22.2",
    "kernels": "0.17.2",
    "accelerate": "1.15.0",
    "triton": "3.7.0",
    "bitsandbytes": "0.50.2",
    "optimum-quanto": "0.2.7",
    "hqq": "0.2.8.post1",
    "torchao": "0.18.0",
    "flash-attn": "2.8.3",
}


def card(gib, *, count=1):
    """An inventory with every package and cards of which so many GiB are free."""
    return Inventory(
        {"cuda": count, "cpu": 1}, "", EVERY_PACKAGE, "/usr/bin/g++", tools=TOOLS, free_bytes=int(gib * 2**30)
    )
