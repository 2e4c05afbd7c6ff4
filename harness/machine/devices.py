"""Ask torch for devices: names, keys, free memory."""

from __future__ import annotations

import torch

from harness.machine.simulated import is_simulated


def device_names(device: str) -> str:
    """Names of the devices of a type, as torch tells them; initialises the device, so ask it of a worker."""
    return ", ".join(device_name(device, index) for index in range(torch.get_device_module(device).device_count()))


def device_name(device: str, index: int) -> str:
    """Of one device; that of its type where torch tells no other, as of Apple's."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(index)) if name else device


def device_keys(device: str) -> list[str]:
    """What tells each visible device of a type from all others of this machine: its UUID where torch knows one, else
    its place. Initialises the device, so ask it of a worker."""
    module = torch.get_device_module(device)
    places = range(module.device_count())
    if not hasattr(module, "get_device_properties"):
        return [f"{device}-{place}" for place in places]
    return [str(getattr(module.get_device_properties(place), "uuid", f"{device}-{place}")) for place in places]


def computes_on_cpu(device: str) -> bool:
    """Return whether a device type is the CPU or simulated by it. Work then takes far longer than on a card."""
    return device == "cpu" or is_simulated(device_name(device, 0))


def free_memory(device: str) -> int:
    """Return the bytes that are free on the fullest device of a type; 0 where torch does not tell. Initialises the
    device, so ask it of a worker."""
    module = torch.get_device_module(device)
    tell = getattr(module, "mem_get_info", None)
    return min(int(tell(place)[0]) for place in range(module.device_count())) if tell else 0
