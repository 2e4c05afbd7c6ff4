"""Cards as NVML tells of them, from readings that are made up after its documentation: no GPU was at hand."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

from harness.commands.validate.examining import find_card
from harness.commands.validate.records import Build, Card
from harness.machine.health import Examined
from harness.records.measurements import Peaks

FOLDER = Path(__file__).parent / "recorded_nvml"
NAMES = ("healthy", "throttled", "ecc", "shared")
FIELD = "NVML_FI_DEV_CLOCKS_EVENT_REASON_"
REFUSED = {3: "Not Supported", 6: "Not Found", 13: "Function Not Found", 15: "GPU is lost"}


class FakeNVMLError(Exception):
    def __str__(self):
        return REFUSED[self.args[0]]


class RecordedNvml(ModuleType):
    """The module pynvml on a recorded machine. `work` goes on from the idle readings to the busy ones; whatever a
    reading is absent of is not supported."""

    NVML_SUCCESS, NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 0, 1, 0
    NVML_VOLATILE_ECC, NVML_AGGREGATE_ECC, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1, 1
    NVMLError = FakeNVMLError

    def __init__(self, record):
        super().__init__("pynvml")
        self.record = record
        self.now = dict(record["idle"])
        self.fields = dict(enumerate(record["idle"]["FieldValues"], 269))
        vars(self).update({FIELD + name: number for number, name in self.fields.items()})

    def work(self):
        self.now |= self.record["busy"]

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != self.record["uuid"]:
            raise FakeNVMLError(6)
        return "handle"

    def nvmlDeviceGetTotalEccErrors(self, handle, kind, counter):
        assert kind == self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        return self._told("DeviceGetTotalEccErrors")[{0: "volatile", 1: "aggregate"}[counter]]

    def nvmlDeviceGetFieldValues(self, handle, fields):
        (number,) = fields
        told = self.now["FieldValues"].get(self.fields[number])
        return [SimpleNamespace(nvmlReturn=0 if told is not None else 3, value=SimpleNamespace(ullVal=told))]

    def __getattr__(self, name):
        """Every other function gives what the record holds of it."""
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return lambda *_: self._told(name.removeprefix("nvml"))

    def _told(self, name):
        if self.now.get(name) is None:
            raise FakeNVMLError(3)
        return self.now[name]


def record(name, **changes):
    """A recorded machine; `idle` and `busy` change single readings."""
    found = json.loads((FOLDER / f"{name}.json").read_text())
    found = copy.deepcopy(found)
    for when, readings in changes.items():
        found[when] |= readings
    return found


def card(name="healthy", **changes):
    """As a worker examines it."""
    made = record(name, **changes)
    nvml = RecordedNvml(made)
    watched, why = find_card(made["uuid"].removeprefix("GPU-"), nvml=nvml)
    assert why == ""
    idle = watched.read()
    nvml.work()
    torch = made["torch"]
    build = Build(torch["cuda"], tuple(torch["capability"]), tuple(torch["arches"]))
    examined = Examined(torch["name"], "", 0, {"steal": "0.0%"}, Peaks(**made["peaks"]))
    return Card("cuda:0", torch["name"], examined, build, idle, watched.read())


def unread(why):
    """A card of which NVML tells nothing."""
    return replace(card(), idle=None, busy=None, unread=why)
