"""Sampling by subjects whose times are scripted: order, end, what is dropped, and which tokens are right."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest
import torch

from harness.execution import measuring
from harness.execution.measuring import Sampling, TimedBlock
from harness.execution.speed.alternating import AlternatingSides, alternate
from harness.execution.speed.paired import sample
from harness.execution.speed.warm_model import NEAR_TIE_ULPS, TokenCheck, agrees, warm_up
from harness.judging.speed import Aim, Aims
from harness.machine.conditions import Conditions, Reading
from harness.records.measurements import Sample, WarmUp

TOKENS = torch.tensor([[5, 6, 7], [8, 9, 10]])
OPEN = Aims((Aim(1.7),))
"""What runs that are now twice, now 1.33 times as fast do not tell."""


class Clock:
    """Stands still but for what the subjects take."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


class Subject:
    """Takes the scripted seconds, the last of them for ever, and notes its turns."""

    def __init__(self, name, seconds, *, clock, turns):
        self.name, self.seconds, self.clock, self.turns = name, list(seconds), clock, turns

    def run(self):
        taken = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        self.clock.now += taken
        self.turns.append(self.name)
        return Sample(taken), TOKENS


class Quiet:
    """Nothing happens but in the readings, counted by pairs, of which something is scripted."""

    def __init__(self, **happened):
        self.happened = {int(name.removeprefix("pair")): why for name, why in happened.items()}
        self.readings = count()

    def read(self):
        return Reading(next(self.readings))

    def between(self, before, after):
        assert after.compiled == before.compiled + 1
        return self.happened.get(before.compiled // 2, self.happened.get(-1, ""))


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(measuring, "time", made)
    return made


@pytest.fixture
def sampled(clock):
    """(pairs, looks, why it ended, seconds, whose turn it was) of a candidate and eager with scripted seconds."""

    def run(candidate=(1.0,), eager=(2.0,), *, watching=None, **sampling):
        turns, seen = [], []
        subjects = [
            Subject(name, seconds, clock=clock, turns=turns)
            for name, seconds in (("candidate", candidate), ("eager", eager))
        ]
        checks = [seen.append, seen.append]
        options = Sampling(**{"seconds": 1e9, "aims": OPEN, "looks": (12, 16, 20)} | sampling)
        found = sample(*subjects, options, watching=watching or Quiet(), checks=checks)
        assert len(seen) == len(turns)
        return *found, turns

    return run


def spread(factor):
    """Seconds that go up and down by that much."""
    return [1.0, 1.0, 1.0, 1.0, factor, factor, factor, factor] * 100


def test_both_orders_occur_as_the_seed_draws_them(sampled):
    """Every pair has both sides, whichever came first; a seed draws the same again, another one others."""
    pairs, *_, turns = sampled(spread(1.5))
    firsts = [turns[2 * index] for index in range(len(pairs))]
    assert set(firsts) == {"candidate", "eager"}
    assert all({*turns[2 * index : 2 * index + 2]} == {"candidate", "eager"} for index in range(len(pairs)))
    assert all(pair.candidate.seconds < pair.eager.seconds == 2.0 for pair in pairs)
    assert sampled(spread(1.5))[-1] == turns
    assert sampled(spread(1.5), seed=1)[-1] != turns


def test_sampling_ends_at_the_first_look_that_decides(sampled):
    """And not between looks, however clear it is."""
    pairs, looks, why, seconds, _ = sampled(aims=Aims((Aim(1.0),)))
    assert (len(pairs), looks, why, seconds) == (12, [12], "decided", 36.0)
    pairs, looks, why, *_ = sampled(spread(1.5))
    assert (len(pairs), looks, why) == (20, [12, 16, 20], "pairs")


def test_sampling_ends_when_its_seconds_are_spent(sampled):
    """With a last look at what there is then; but not before enough pairs count to be judged."""
    pairs, looks, why, *_ = sampled(spread(1.5), seconds=42.0)
    assert (len(pairs), looks, why) == (14, [12, 14], "seconds")
    pairs, looks, why, *_ = sampled(spread(1.5), seconds=0.0, looks=(14, 16))
    assert (len(pairs), looks, why) == (12, [12], "seconds")


def test_dropped_pairs_are_kept_apart_and_made_up_for(sampled):
    """A look counts those that count."""
    pairs, looks, why, *_ = sampled(spread(1.5), watching=Quiet(pair0="compiled", pair9="throttled: heat"))
    assert [(index, pair.dropped) for index, pair in enumerate(pairs) if pair.dropped] == [
        (0, "compiled"),
        (9, "throttled: heat"),
    ]
    assert (len(pairs), looks, why) == (22, [12, 16, 20], "pairs")


def test_sampling_gives_up_where_too_many_pairs_are_dropped(sampled):
    """As soon as there are as many as the first look asks for."""
    pairs, looks, why, *_ = sampled(watching=Quiet(**{"pair-1": "foreign process"}))
    assert (len(pairs), looks, why) == (12, [0], "dropped")


def test_compilation_while_sampling_drops_its_pair(sampled, monkeypatch):
    """As torch itself counts it, in the fourth run of the candidate."""
    run, turns = Subject.run, []

    def compiling(subject):
        turns.append(subject.name)
        if turns.count("candidate") == 4 and subject.name == "candidate":
            torch.compile(lambda x: x + 1, backend="eager")(torch.ones(3))
        return run(subject)

    monkeypatch.setattr(Subject, "run", compiling)
    pairs, looks, *_ = sampled(watching=Conditions(), aims=Aims((Aim(1.0),)))
    dropped = {index: pair.dropped for index, pair in enumerate(pairs) if "compiled" in pair.dropped}
    assert dropped == {3: "compiled"}
    assert looks == [12]


@pytest.mark.parametrize(("compiling", "calls"), [((), 3), ((0,), 3), ((0, 1), 4), ((0, 2), 5), (range(50), 12)])
def test_warm_up_ends_after_two_runs_without_compiling(clock, compiling, calls):
    """But not before three, and not after twelve."""
    subject = Subject("candidate", [9.0, 1.0], clock=clock, turns=[])
    watching = Quiet(**{f"pair{index}": "compiled" for index in compiling})
    warm = warm_up(subject, watching)
    assert (warm.first_call, warm.calls, warm.compile_seconds) == (9.0, calls, 0.0)


@pytest.fixture
def sides(clock):
    """Sides that note whose block was run. Of the candidate's, `differing` have wrong tokens."""

    def make(turns, *, differing=0, dropped="", uneven=1.5):
        def block(name, seconds):
            def run():
                turns.append(name)
                clock.now += 4 * seconds
                wrong, why = (differing, dropped) if name == "candidate" else (0, "")
                slower = uneven if name == "candidate" and turns.count(name) % 2 else 1.0  # from load to load
                runs = ((Sample(seconds * slower), why),) * 4
                return TimedBlock(
                    runs, WarmUp(1.0, 3), None, "no work", wrong, ("k",), ("k",), len(turns) % 2, {"load": "1"}
                )

            return run

        return AlternatingSides(block("candidate", 1.0), block("eager", 2.0), rows=1, new_tokens=9)

    return make


def test_workers_turn_round_who_comes_first(sides):
    """And all of what their blocks saw is in the speed."""
    turns = []
    speed = alternate(sides(turns, differing=2, uneven=1.01), Sampling(1e9, Aims((Aim(1.0),))))
    assert turns == ["candidate", "eager", "eager", "candidate"] * 7
    assert (speed.looks, speed.stopped, speed.block, speed.alternating) == ((56,), "decided", 4, True)
    assert (speed.differing, speed.foreign, speed.rows, speed.new_tokens) == (28, 1, 1, 9)
    assert (speed.kernels, speed.verified_kernels, speed.uncounted) == (("k",), ("k",), "no work")
    assert speed.seconds == 168.0


def test_time_does_not_end_turns_before_fourteen_loads(sides):
    """One load alone has no spread, and an interval of it no width."""
    speed = alternate(sides([]), Sampling(0.0, OPEN))
    assert (speed.looks, speed.stopped) == ((56,), "seconds")


def test_workers_go_on_until_they_tell_enough(sides):
    speed = alternate(sides([]), Sampling(1e9, OPEN))
    assert (speed.looks, speed.stopped) == ((56, 68, 80), "pairs")
    speed = alternate(sides([], dropped="compiled"), Sampling(1e9, OPEN))
    assert (speed.looks, speed.stopped, speed.kept) == ((0,), "dropped", ())


def logits(*, margin, at=(0, 1)):
    """(2, 3, 16), by which TOKENS are chosen; at one position token 3 is behind by `margin` alone."""
    made = torch.zeros(2, 3, 16).scatter(2, TOKENS[:, :, None], 8.0)
    made[(*at, 3)] = 8.0 - margin
    return made


def other(*places):
    """TOKENS with token 3 at places."""
    made = TOKENS.clone()
    for place in places:
        made[place] = 3
    return made


def ulps(number, dtype=torch.float32):
    """Of 8."""
    return number * 8 * torch.finfo(dtype).eps


def test_equal_tokens_agree_whatever_chose_them():
    assert agrees(TOKENS, TOKENS.clone(), None, dtype=torch.float32)


def test_tokens_of_another_shape_do_not_agree():
    assert not agrees(TOKENS[:, :2], TOKENS, logits(margin=0.0)[:, :2], dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("margin", "agreed"), [(0, True), (NEAR_TIE_ULPS, True), (NEAR_TIE_ULPS + 1, False)])
def test_a_near_tie_of_its_own_logits_may_part_a_row(dtype, margin, agreed):
    """By units in the last place of the model's dtype, though `generate` gives float32."""
    given = logits(margin=ulps(margin, dtype))
    assert agrees(TOKENS, other((0, 1)), given, dtype=dtype) is agreed


def test_what_follows_a_near_tie_is_not_compared_but_other_rows_are():
    """A row's past is another one from there on. Each row needs a tie of its own."""
    tied = logits(margin=0.0)
    assert agrees(TOKENS, other((0, 1), (0, 2)), tied, dtype=torch.float32)
    assert not agrees(TOKENS, other((0, 0), (0, 1)), tied, dtype=torch.float32)
    assert not agrees(TOKENS, other((0, 1), (1, 2)), tied, dtype=torch.float32)


def test_without_logits_no_tie_can_be_shown():
    assert not agrees(TOKENS, other((0, 1)), None, dtype=torch.float32)


def test_logits_that_are_no_numbers_are_no_tie():
    assert not agrees(TOKENS, other((0, 1)), logits(margin=float("nan")), dtype=torch.float32)


@pytest.mark.parametrize(("verified", "differing"), [(TOKENS, 1), (TOKENS + 1, 2)])
def test_token_check_counts_wrong_runs(verified, differing):
    """Those that leave the plain run, and that one if it leaves the verified."""
    check = TokenCheck(SimpleNamespace(plain=lambda: (TOKENS, logits(margin=1.0)), model=torch.zeros(1)), verified)
    check(TOKENS.clone())
    check(other((1, 1)))
    assert check.differing == differing
