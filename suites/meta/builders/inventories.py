"""Inventories of made-up machines."""

from __future__ import annotations

from harness.machine.inventory import Inventory

CPU = Inventory(
    {"cpu": 1}, "torch is built without CUDA", {"transformers": "5.22.2", "kernels": "0.17.2"}, "/usr/bin/g++"
)


TOOLS = {name: f"/usr/bin/{name}" for name in ("C compiler", "Python.h", "C++ compiler", "ninja", "nvcc")}


GPU = Inventory({"cuda": 1, "cpu": 1}, "", CPU.packages, "", tools=TOOLS)
