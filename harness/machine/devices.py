"""Names, keys and free memory of devices, as torch reports them."""

from __future__ import annotations

import torch

from harness.machine.inventory import is_simulated


def device_names(device: str) -> str:
    """Return the names of the devices of a type. Initialises the device, so call it in a worker."""
    return ", ".join(device_name(device, index) for index in range(torch.get_device_module(device).device_count()))


def device_name(device: str, index: int) -> str:
    """Return the name of one device; its type where torch has no name for it, as for Apple's."""
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(index)) if name else device


def device_keys(device: str) -> list[str]:
    """Return a key for each visible device of a type, unique on this machine: its UUID, or else its place. Initialises
    the device, so call it in a worker."""
    module = torch.get_device_module(device)
    places = range(module.device_count())
    if not hasattr(module, "get_device_properties"):
        return [f"{device}-{place}" for place in places]
    return [str(getattr(module.get_device_properties(place), "uuid", f"{device}-{place}")) for place in places]


def computes_on_cpu(device: str) -> bool:
    """Return whether a device type is the CPU or simulated by it. Work then takes far longer than on a card."""
    return device == "cpu" or is_simulated(device_name(device, 0))


def free_memory(device: str) -> int:
    """Return the bytes that are free on the fullest device of a type; 0 where torch does not say. Initialises the
    device, so call it in a worker."""
    module = torch.get_device_module(device)
    tell = getattr(module, "mem_get_info", None)
    return min(int(tell(place)[0]) for place in range(module.device_count())) if tell else 0
