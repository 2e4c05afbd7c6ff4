"""Plain data of the table of silence: what is asked for, what was seen of it, and which word that deserves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.records.enums import Technique

Options = Callable[[], Mapping[str, Any]]
"""Makes keyword arguments. It is called in the worker, where the libraries are that they are made of."""


class Word(StrEnum):
    """Answer of a library to a request."""

    HONOURED = "honoured"
    """What was seen is what was requested, and is not seen without the request."""
    REFUSED = "refused"
    """An exception, a warning or a line of a log names the request, which was not honoured."""
    IGNORED = "ignored"
    """The same is seen as without the request, and nothing was said of it."""
    OTHERWISE = "otherwise"
    """What was observed changed, but not to what was requested."""
    RAISES = "raises"
    """An exception that does not name the request."""


def nothing() -> Mapping[str, Any]:
    return {}


def as_it_is(model: Any) -> Any:
    return model


@dataclass(frozen=True)
class Call:
    """One use of a library, in steps: load a model, do something to it, and generate."""

    load: Options = nothing
    """Keyword arguments of `from_pretrained`."""
    generate: Options = nothing
    """Keyword arguments of `generate`; of `generate_batch`, where requests are served."""
    prepare: Callable[[Any], Any] = as_it_is
    """Given the loaded model, returns the one that generates."""
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Context in which tokens are generated."""
    batching: Options | None = None
    """Entries of ContinuousBatchingConfig; None where `generate` is called."""
    model: str = "tiny_qwen3"
    dtype: str = "float32"
    """Given to `from_pretrained`; nothing is given if it is empty."""
    rows: int = 1
    padded: int = 0
    """Positions of padding before each row but the last."""
    ranks: int = 1
    compiles: bool = False
    """Whether anything may be compiled. Hooks and modes of ours would be compiled with it, so they stay away."""


PLAIN = Call()


@dataclass(frozen=True)
class Request:
    """One thing that a user can ask for, and the observation that tells whether it was honoured."""

    name: str
    words: str
    """The request as a user types it."""
    about: str
    """Fact by which it is seen, of those that `looks` gathers."""
    wanted: str
    """Pattern of the fact if the request is honoured, as of fnmatch. `*` is anything but the control's."""
    asked: Call
    control: Call = PLAIN
    """The same call without the request."""
    named: tuple[str, ...] = ()
    """Words of which any that is said names the request; by default the first keyword of `words`."""
    technique: Technique = field(kw_only=True)

    @property
    def names(self) -> tuple[str, ...]:
        return self.named or (self.words.partition("=")[0].rpartition("(")[2].strip(),)


@dataclass(frozen=True)
class Trial:
    """What one call showed: facts by name, what was said meanwhile, and what was raised."""

    facts: Mapping[str, str] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    """First lines of warnings, of what loggers were told from WARNING on, and of what was printed."""
    raised: str = ""
    """Class and first line of the exception; empty for none."""


@dataclass(frozen=True)
class Answer:
    """Word that a request got, with what it rests on."""

    word: Word
    seen: str = ""
    """Value of the fact with the request."""
    control: str = ""
    """The same without it."""
    said: str = ""
    """Line that names the request, or that was raised; empty for none."""


class ControlFails(Exception):
    """The call without the request fails, or already shows what is requested: nothing can be said of the request."""
