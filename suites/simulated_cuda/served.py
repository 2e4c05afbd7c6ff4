"""One CUDA operator, computed on the CPU."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from . import graphs, host
from .random_numbers import generator

CPU = torch.device("cpu")


class ServedOperator:
    """What is known of an operator before it is called."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        schema = operator(name)._schema
        arguments = schema.arguments
        self.name = name
        self.function = function
        self.names = [argument.name for argument in arguments]
        self.written = [argument.name for argument in arguments if _is_written(argument)]
        self.outputs = [argument.name for argument in arguments if argument.is_out]
        self.generator = next((argument.name for argument in arguments if "Generator" in str(argument.type)), "")
        self.of_tensors = [str(argument.type) == "Tensor" for argument in arguments]
        self.packet = operator(name).overloadpacket
        self.returned = [_same_argument(returned, arguments) for returned in schema.returns]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with host.unwatched():
            return _Call(self, args, kwargs).answer()


class _Call:
    """One call of an operator, which a graph may repeat."""

    def __init__(self, served: ServedOperator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._served = served
        self._given = dict(zip(served.names, args, strict=False)) | kwargs
        self._device = _device_of(self._given)
        self._drawn_from = self._given.get(served.generator)
        self._host_args = [_on_host(value) for value in args]
        self._host_kwargs = {name: _on_host(value) for name, value in kwargs.items()}
        self._grown = self._outputs_without_elements()

    def answer(self) -> Any:
        recording = graphs.recording()
        if recording is not None:
            self._keep_for(recording)
        results = self._compute()
        before = recording.keep if recording is not None else None
        made = [host.to_device(each, self._device, before=before) for each in self._new(results)]
        grown = {name: _grow(self._given[name], computed, before) for name, computed in self._grown.items()}
        if recording is not None:
            recording.steps.append(self._step([host.view(each) for each in made], grown))
        answer = self._returned(results, iter(made))
        self._given = {}  # a graph keeps this call, and is to keep no tensor of the device alive
        return answer

    def _outputs_without_elements(self) -> dict[str, torch.Tensor]:
        """Return CPU tensors for outputs whose size the operator decides: a device's memory cannot grow on the host."""
        empty = {}
        for name in self._served.outputs:
            output = self._given.get(name)
            if isinstance(output, torch.Tensor) and output.is_cuda and output.numel() == 0:
                empty[name] = self._host_kwargs[name] = torch.empty(0, dtype=output.dtype)
        return empty

    def _keep_for(self, recording: graphs.Recording) -> None:
        for name in self._served.written:
            for memory in _tensors(_on_host(self._given.get(name))):
                recording.keep(memory)

    def _compute(self) -> Any:
        served, named = self._served, self._host_kwargs
        if served.generator:
            named = {**named, served.generator: generator(self._drawn_from, self._device)}
        try:
            return self._function()(*self._host_args, **named)
        except NotImplementedError as error:
            raise NotImplementedError(f"the simulated CUDA device cannot compute {served.name}: {error}") from error

    def _function(self) -> Callable[..., Any]:
        """Return what computes. A number that stands for a tensor, as in `a % 2`, belongs to another overload."""
        served, pairs = self._served, zip(self._host_args, self._served.of_tensors, strict=False)
        stands = any(of_tensor and isinstance(value, (int, float, complex)) for value, of_tensor in pairs)
        return served.packet if stands and served.function is operator(served.name) else served.function

    def _new(self, results: Any) -> list[torch.Tensor]:
        """Return the tensors among the results that are no arguments."""
        pairs = zip(_as_tuple(results), self._served.returned, strict=False)
        return [tensor for result, argument in pairs if not argument for tensor in _tensors(result)]

    def _step(self, made: list[torch.Tensor], grown: dict[str, torch.Tensor]) -> Callable[[], None]:
        """Return what repeats this call, and writes where it has written."""

        def step() -> None:
            for to, result in zip(made, self._new(self._compute()), strict=True):
                to.copy_(result)
            for name, to in grown.items():
                to.copy_(self._grown[name])

        return step

    def _returned(self, results: Any, made: Iterator[torch.Tensor]) -> Any:
        returns = self._served.returned
        if not returns:
            return None
        pairs = zip(_as_tuple(results), returns, strict=False)
        answers = [self._given[argument] if argument else _replace(result, made) for result, argument in pairs]
        return tuple(answers) if len(returns) > 1 else answers[0]


def operator(name: str) -> Any:
    """Return torch's operator of a name such as `aten::add.Tensor`."""
    space, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, space), packet), overload or "default")


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _same_argument(returned: Any, arguments: Iterable[Any]) -> str:
    """Return the name of the argument that an operator returns; empty for something new."""
    if not _is_written(returned):
        return ""
    same = returned.alias_info.before_set
    return next(each.name for each in arguments if each.alias_info is not None and each.alias_info.before_set == same)


def _device_of(given: dict[str, Any]) -> torch.device:
    """Return the device that a call computes on: of its tensors, else the one it names, else the current one."""
    for value in given.values():
        for tensor in _tensors(value):
            if tensor.is_cuda:
                return tensor.device
    named = given.get("device")
    if named is not None and named.index is not None:
        return named
    return torch.device("cuda", torch.cuda.current_device())


def _on_host(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return host.view(value)
    if isinstance(value, (list, tuple)):
        return [_on_host(each) for each in value]
    if isinstance(value, torch.device):
        return CPU
    return None if isinstance(value, torch.Generator) else value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _tensors(each)


def _as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def _grow(output: torch.Tensor, computed: torch.Tensor, before: Callable[[torch.Tensor], None] | None) -> torch.Tensor:
    """Give an output the size and the numbers that were computed; return its memory, which `before` is called with."""
    output.resize_(computed.shape)
    memory = host.view(output)
    if before is not None:
        before(memory)
    memory.copy_(computed)
    return memory


def _replace(result: Any, made: Iterator[torch.Tensor]) -> Any:
    if isinstance(result, torch.Tensor):
        return next(made)
    return [_replace(each, made) for each in result] if isinstance(result, list) else result
