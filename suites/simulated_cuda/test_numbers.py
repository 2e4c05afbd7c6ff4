"""Operators of the simulated device give the CPU's numbers, under CUDA's names."""

from collections import Counter

import pytest

from suites.simulated_cuda.simulated import skip_elsewhere

skip_elsewhere()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
INDEX = torch.tensor([2, 0, 1])

OPERATORS = {
    "add": lambda a, b: a + b,
    "add_scalar": lambda a, b: a + 1.5,
    "alpha": lambda a, b: torch.sub(a, b, alpha=2),
    "compare": lambda a, b: a > b,
    "where": lambda a, b: torch.where(a > b, a, b),
    "matmul": lambda a, b: a @ b.mT,
    "linear": lambda a, b: F.linear(a, b, b[:, 0]),
    "bmm": lambda a, b: torch.bmm(a.expand(2, 3, 4), b.mT.expand(2, 4, 3)),
    "baddbmm": lambda a, b: torch.baddbmm(a[:, :3].expand(2, 3, 3), a.expand(2, 3, 4), b.mT.expand(2, 4, 3), beta=2),
    "softmax": lambda a, b: a.softmax(-1),
    "softmax_to_float": lambda a, b: a.softmax(-1, dtype=torch.float32),
    "log_softmax": lambda a, b: a.log_softmax(-1),
    "layer_norm": lambda a, b: F.layer_norm(a, (4,), b[0], b[1]),
    "rms_norm": lambda a, b: F.rms_norm(a, (4,), b[0]),
    "batch_norm": lambda a, b: F.batch_norm(a, b[0].clone(), b[1].abs().clone(), b[2], b[1], training=True),
    "silu": lambda a, b: F.silu(a),
    "gelu": lambda a, b: F.gelu(a, approximate="tanh"),
    "dtypes": lambda a, b: a.to(torch.float16).to(torch.float64).to(torch.int64),
    "sort": lambda a, b: a.sort(-1, descending=True),
    "topk": lambda a, b: a.topk(2, -1),
    "argmax": lambda a, b: a.argmax(-1),
    "max": lambda a, b: a.max(0),
    "sum": lambda a, b: a.sum(0, keepdim=True),
    "mean_of_all": lambda a, b: a.mean(),
    "norm": lambda a, b: a.norm(dim=-1),
    "cumsum": lambda a, b: a.cumsum(0),
    "cat": lambda a, b: torch.cat([a, b], -1),
    "stack": lambda a, b: torch.stack([a, b]),
    "index": lambda a, b: a[INDEX.to(a.device)],
    "boolean_index": lambda a, b: a[a > 0],
    "gather": lambda a, b: a.gather(0, INDEX.to(a.device)[:, None]),
    "index_select": lambda a, b: a.index_select(0, INDEX.to(a.device)),
    "embedding": lambda a, b: F.embedding(INDEX.to(a.device), a),
    "nonzero": lambda a, b: (a > 0).nonzero(),
    "unique": lambda a, b: (a * 2).round().unique(),
    "one_hot": lambda a, b: F.one_hot(INDEX.to(a.device), 3),
    "tril": lambda a, b: a.tril(),
    "masked_fill": lambda a, b: a.masked_fill(a > 0, float("-inf")),
    "flip": lambda a, b: a.flip(0),
    "roll": lambda a, b: a.roll(1, 0),
    "repeat_interleave": lambda a, b: a.repeat_interleave(2, 0),
    "contiguous": lambda a, b: a.mT.contiguous(),
    "pad": lambda a, b: F.pad(a, (1, 2)),
    "isin": lambda a, b: torch.isin(a.contiguous(), b.contiguous()),
    "einsum": lambda a, b: torch.einsum("ij,kj->ik", a, b),
    "conv": lambda a, b: F.conv1d(a[None], b[:, :3, None].expand(3, 3, 2), padding=1),
    "conv_of_groups": lambda a, b: F.conv1d(a[None], b[:, :1, None].expand(3, 1, 2), groups=3),
    "complex": lambda a, b: torch.view_as_real(torch.polar(a.abs().float(), b.float()).conj() * 2),
    "foreach": lambda a, b: torch._foreach_add([a, b], 1),
    "linalg": lambda a, b: torch.linalg.solve((a @ a.mT + 3 * torch.eye(3).to(a)).double(), b.double()),
}
WRITERS = {
    "add_": lambda a, b: a.add_(b, alpha=0.5),
    "fill_": lambda a, b: a[:, 1].fill_(3),
    "zero_": lambda a, b: a.zero_(),
    "copy_": lambda a, b: a.copy_(b[:1]),
    "copy_from_another_dtype": lambda a, b: a.copy_(b.to(torch.int32)),
    "masked_fill_": lambda a, b: a.masked_fill_(a > 0, -1),
    "index_put_": lambda a, b: a.index_put_((INDEX.to(a.device),), b),
    "accumulate": lambda a, b: a.index_put_((INDEX.to(a.device) % 2,), b, accumulate=True),
    "index_copy_": lambda a, b: a.index_copy_(0, INDEX.to(a.device), b),
    "index_add_": lambda a, b: a.index_add_(0, INDEX.to(a.device), b),
    "scatter_": lambda a, b: a.scatter_(0, INDEX.to(a.device)[:, None], b),
    "out": lambda a, b: torch.mul(a, 2, out=a),
    "out_of_a_view": lambda a, b: torch.mul(b[:, :2], 2, out=a[:, ::2]),
    "out_that_grows": lambda a, b: torch.mul(a, b, out=torch.empty(0, dtype=a.dtype, device=a.device)),
    "slices": lambda a, b: a[1:].copy_(a[:-1].clone()),
    "foreach_": lambda a, b: torch._foreach_mul_([a, b], 2),
}


def _inputs(dtype, kind):
    made = torch.Generator().manual_seed(1)
    a, b = (torch.randn(3, 4, generator=made).to(dtype) for _ in range(2))
    if kind == "strided":
        return torch.stack([a, a], -1)[..., 1], b.mT.contiguous().mT
    return (a, b[:1].expand(3, 4)) if kind == "expanded" else (a, b)


def _on_device(tensor):
    """The same layout on the device."""
    base = torch.empty(tensor.untyped_storage().nbytes(), dtype=torch.uint8, device="cuda")
    base.untyped_storage().copy_(tensor.untyped_storage())
    there = torch.empty(0, dtype=tensor.dtype, device="cuda")
    return there.set_(base.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


def _leaves(value):
    return [value] if isinstance(value, torch.Tensor) else list(value or ())


def _assert_same(there, here):
    for of_device, of_cpu in zip(_leaves(there), _leaves(here), strict=True):
        assert of_device.is_cuda
        assert of_device.dtype == of_cpu.dtype
        assert of_device.stride() == of_cpu.stride()
        assert torch.equal(of_device.cpu().nan_to_num(), of_cpu.nan_to_num())


@pytest.mark.parametrize("kind", ["plain", "strided", "expanded"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operators_give_the_cpus_numbers(dtype, kind):
    for name, function in OPERATORS.items():
        here = _inputs(dtype, kind)
        there = [_on_device(each) for each in here]
        try:
            _assert_same(function(*there), function(*here))
        except Exception as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("kind", ["plain", "strided"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operators_write_where_the_cpus_do(dtype, kind):
    for name, function in WRITERS.items():
        here = _inputs(dtype, kind)
        there = [_on_device(each) for each in here]
        try:
            _assert_same(function(*there), function(*here))
            _assert_same(there, here)
        except Exception as error:
            raise AssertionError(name) from error


def test_in_place_operators_return_their_argument():
    numbers = torch.ones(3, device="cuda")
    assert numbers.add_(1) is numbers


def test_numbers_reach_the_host():
    assert torch.tensor([1, 2, 3], device="cuda").tolist() == [1, 2, 3]
    assert torch.tensor(2.5, device="cuda").item() == 2.5
    assert torch.arange(2, 8, 2, device="cuda").cpu().tolist() == [2, 4, 6]


def test_seeds_decide_random_numbers():
    def drawn():
        return torch.cat([torch.rand(5, device="cuda"), torch.randn(5, device="cuda"), torch.rand(5, device="cuda")])

    torch.manual_seed(3)
    first = drawn()
    state = torch.cuda.get_rng_state()
    second = drawn()
    torch.cuda.set_rng_state(state)
    assert torch.equal(drawn(), second)
    torch.manual_seed(3)
    assert torch.equal(drawn(), first)
    assert not torch.equal(first, second)
    assert len(set(first.tolist())) == 15


def test_a_generator_of_the_device_decides():
    given = torch.Generator("cuda").manual_seed(5)
    weights = torch.ones(100, device="cuda")
    first = torch.multinomial(weights, 10, generator=given)
    assert torch.equal(torch.multinomial(weights, 10, generator=given.manual_seed(5)), first)


def test_random_numbers_leave_the_cpus_alone():
    state = torch.get_rng_state()
    torch.rand(5, device="cuda")
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_flow():
    weight = torch.randn(3, 4, device="cuda", requires_grad=True)
    F.gelu(torch.ones(2, 4, device="cuda") @ weight.t()).sum().backward()
    here = weight.detach().cpu().requires_grad_()
    F.gelu(torch.ones(2, 4) @ here.t()).sum().backward()
    assert torch.equal(weight.grad.cpu(), here.grad)


class _Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_modes_see_cudas_operators_alone(guard):
    here = torch.arange(6.0).view(2, 3)
    there = here.cuda()
    with guard(), _Seen() as seen:
        assert torch.equal((there @ there.t()).cpu(), here @ here.t())
    products = seen.names["aten.mm.default"] + seen.names["aten.matmul.default"]  # in inference mode, the latter
    assert products == 2  # one of the device, one of the CPU


def test_the_profiler_shows_cudas_operator_once_and_none_of_the_cpus():
    scores = torch.randn(3, 4, device="cuda", dtype=torch.float16)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        scores.softmax(-1, dtype=torch.float32)
    names = Counter(event.name for event in seen.events() if event.name.startswith("aten::"))
    assert names == {"aten::softmax": 1, "aten::_softmax": 1}


def test_asking_the_profiler_for_cuda_is_no_error():
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        torch.ones(3, device="cuda") + 1
    assert "aten::add" in {event.name for event in seen.events()}


@torch.no_grad()
def test_compiled_code_calls_what_it_does_not_compile():
    @torch.compile(backend="eager")
    def doubled(numbers):
        return numbers @ numbers.t()

    numbers = torch.randn(3, 4)
    assert torch.equal(doubled(numbers.cuda()).cpu(), numbers @ numbers.t())
