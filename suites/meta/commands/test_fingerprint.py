"""The fingerprint: correct hardware gives the same bits again, and one flipped bit is found and named."""

from __future__ import annotations

from functools import partial
from itertools import count

import pytest
import torch

from fixtures.models import MODELS
from harness.commands.validate import fingerprinting
from harness.commands.validate.fingerprinting import (
    ROWS,
    SEED,
    Operation,
    digest,
    fingerprint,
    operations,
    repeat,
    sparse,
)
from harness.commands.validate.preflight import fingerprint_checks
from harness.commands.validate.records import LEAST, Fingerprint, Grade
from harness.records.codec import from_plain, to_plain


@pytest.fixture(scope="module")
def known():
    """All operations on this CPU, on little memory."""
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(fingerprinting, "CPU_ROWS", 64)
        patch.setattr(fingerprinting, "CPU_MEMORY", 2**20)
        yield operations("cpu", MODELS[0])


def flipped(operation, *, at, bit=0):
    """The operation with one bit of its output flipped in the repetitions `at`."""
    calls = iter(range(1, 10_000))

    def run():
        given = operation.run().clone()
        if next(calls) in at:
            given.view(-1)[:1].view(torch.uint8)[:1] ^= 1 << bit
        return given

    return Operation(run, operation.expected)


def told(known):
    return [str(check) for check in fingerprint_checks(repeat("cuda:0", known, seconds=0))]


def test_correct_hardware_gives_the_same_bits(known):
    found = repeat("cpu", known, seconds=0)
    assert (found.repetitions, found.differing) == (LEAST, ())
    assert found.wrong == dict.fromkeys(
        ["exact fp32 products", "exact fp16 products", "exact bf16 products", "memory"], 0
    )
    assert {len(each) for each in found.digests.values()} == {64}
    [check] = fingerprint_checks(found)
    assert check.grade is Grade.GOOD
    assert str(check) == "cpu: the fingerprint is the same in 3 repetitions of 9 operations, 4 of them exact"


def test_load_of_a_real_size_counts_each_product_that_differs(monkeypatch):
    """Only a device that is no CPU runs it by default; one bit in one of many products is found."""
    monkeypatch.setattr(fingerprinting, "LOAD_SECONDS", 0.01)
    under_load = fingerprinting.under_load("cpu", torch.Generator().manual_seed(0), size=(8, 16, 32))
    assert torch.equal(under_load.run(), under_load.expected)
    products = count()

    def spoiled(left, right):
        return torch.mm(left, right) + (next(products) == 7)

    monkeypatch.setattr(torch.Tensor, "__matmul__", spoiled)
    assert int(under_load.run()) > 0


def test_every_operation_is_another(known):
    """An operation that gave nothing, or always the same, would find nothing."""
    found = repeat("cpu", known, seconds=0)
    assert len(set(found.digests.values())) == len(known) == 9
    assert all(operation.run().numel() >= 64 for operation in known.values())


@pytest.mark.parametrize("name", ["fp32 products", "bf16 products", "reductions", "logits of tiny_qwen3"])
def test_one_flipped_bit_rejects_and_names_operation_and_repetition(known, name):
    broken = {**known, name: flipped(known[name], at={2})}
    [line] = told(broken)
    assert line.startswith(f"cuda:0: {name} in repetition 2 of 3 is ")
    assert line.endswith(
        " as in the first (the card corrupts data without a word: do not use it, and have it replaced)"
    )
    [check] = fingerprint_checks(repeat("cuda:0", {**known, name: flipped(known[name], at={3})}, seconds=0))
    assert check.grade is Grade.REJECTING
    assert f"{name} in repetition 3" in check.what


def test_repetitions_that_differ_are_counted(known):
    [line] = told({"sums": flipped(known["reductions"], at={2, 3})})
    assert " (and other bits in 2 repetitions in all), but should be " in line


@pytest.mark.parametrize("name", ["exact fp32 products", "exact bf16 products", "memory"])
def test_error_that_stays_the_same_is_found_where_nothing_rounds(known, name):
    """No repetition differs from another."""
    [line] = told({name: flipped(known[name], at=range(1, 100))})
    assert line == (
        f"cuda:0: the number of wrong elements of {name} is 1, but should be 0 (the card corrupts data without a word: "
        "do not use it, and have it replaced)"
    )


def test_wrong_first_repetition_is_found(known):
    """All later ones then differ from it."""
    [line] = told({"sums": flipped(known["reductions"], at={1})})
    assert "sums in repetition 2 of 3" in line


def test_time_bounds_the_repetitions(monkeypatch):
    """By a clock that jumps: ten seconds pass with each look at it, and it is looked at once enough are there."""
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.monotonic", partial(next, clock))
    found = repeat("cpu", {"one": Operation(lambda: torch.ones(1))}, seconds=95)
    assert found.repetitions == LEAST + 9


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.int32])
def test_digest_sees_every_bit(kind):
    """Also those that are equal as numbers."""
    zero = torch.zeros(4, dtype=kind)
    assert digest(zero) == digest(zero.clone())
    if kind.is_floating_point:
        assert digest(zero) != digest(-zero)
    assert digest(torch.arange(8, dtype=kind)[::2]) == digest(torch.arange(0, 8, 2, dtype=kind))


def test_exact_products_are_exact_in_the_narrowest_format():
    """No sum leaves what bfloat16 holds, at the size that cards are tried with."""
    draw = torch.Generator().manual_seed(SEED)
    made = sparse(ROWS, draw).double() @ sparse(ROWS, draw).double()
    assert 8 < made.abs().max() <= 256


def test_fingerprint_of_this_processor(monkeypatch):
    """As a worker takes it; it survives being written."""
    monkeypatch.setattr(fingerprinting, "CPU_ROWS", 64)
    monkeypatch.setattr(fingerprinting, "CPU_MEMORY", 2**20)
    found = fingerprint("cpu", 0, "cpu", MODELS[0], 0)
    assert not torch.are_deterministic_algorithms_enabled()
    assert (found.about, found.differing, found.repetitions) == ("cpu", (), LEAST)
    assert from_plain(Fingerprint, to_plain(found)) == found


def test_card_is_asked_to_add_up_in_one_order(monkeypatch):
    """A library that may add up in any order would be taken for a card that corrupts."""
    asked = []
    monkeypatch.setattr(
        fingerprinting, "operations", lambda *_: asked.append(torch.are_deterministic_algorithms_enabled()) or {}
    )
    monkeypatch.setattr(fingerprinting, "repeat", lambda *_, **__: None)
    fingerprint("cpu", 0, "cpu", MODELS[0], 0)
    assert asked == [True]


def test_fingerprint_of_too_few_repetitions_cannot_be_made():
    with pytest.raises(ValueError, match="a fingerprint of 2 repetitions proves nothing"):
        Fingerprint("cpu", 2, 1.0, {"sums": "00"})
