"""Every relation of decoding is violated by faults of its kind, and kept by a correct path; and what it rests on."""

from __future__ import annotations

import math
import random
import re
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from fixtures.tiny.train import byte_tokenizer
from harness.errors import Incompatible
from harness.machine.model_size import Room
from harness.paths.registry import PATHS
from harness.records.enums import Dtype, Outcome
from suites.invariants.asking import Asking
from suites.invariants.decoding import beams, drafts, ends, recording, sampling
from suites.invariants.definitions import BeamSearch, Processing, Warping, same_scores
from suites.invariants.forward import Subject
from suites.invariants.relations import RELATIONS, applies
from suites.invariants.search import SearchBudget
from suites.meta.suites.test_invariants import DECODING

SDPA, STATIC, QUANTIZED = "attention.sdpa", "caching.static", "caching.quantized_quanto4"
BLIND = "suites.meta.faults.blind_reports.decoding"
UNENDED, LATER = "rows that do not end where they should", ", in a later call with other strings"
SHOWN = [
    ("pads_are_left_out", "ends", QUANTIZED, UNENDED),
    ("only_first_string_counts", "stop_strings", SDPA, f"{UNENDED}({LATER})?"),
    (f"{BLIND}:stop_strings_of_an_earlier_call", "stop_strings", SDPA, f"{UNENDED}{LATER}"),
    ("top_k_is_ignored", "sampling", SDPA, "draws from a wrong set of tokens, or with wrong scores"),
    ("draws_are_too_sharp", "sampling", SDPA, "largest gap between draws and their distribution"),
    ("penalty_divides_negative_scores", "processors", SDPA, "scores that are not as defined"),
    ("recent_beams_are_not_reordered", "beams", QUANTIZED, "difference from the same sequences forced.*"),
    ("length_penalty_is_ignored", "beams", SDPA, "told scores that are not those of their sequences"),
    ("second_best_beam_is_dropped", "beams", SDPA, "sequences that the scores do not lead to"),
    ("rejected_drafts_stay_cached", "prompt_lookup", SDPA, r"(largest )?error over eager's \(accepted\)"),
    ("wrong_draft_is_accepted", "assisted", SDPA, "tokens that are not the best"),
    ("assistant_drafts_nothing", "assisted", SDPA, "drafted tokens"),
]
"""Fault, the relation that shows it, the path into which it is planted, and what is wrong. One for each check: all
others are planted by `tox run -e faults`."""


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    made = Asking(tmp_path_factory.mktemp("scratch"), seconds=120.0)
    yield made
    made.close()


@pytest.fixture
def asked(asking, planned_case, runner, tmp_path):
    """The verdict on a relation of a path, in float32."""

    def ask(relation, path, *, fault="", examples=16):
        case, optimization = planned_case(path, dtype=Dtype.FP32)
        case = replace(case, workload=next(each.workload for each in RELATIONS if each.name == relation))
        where = fault and (fault if ":" in fault else f"suites.meta.faults.of_decoding:{fault}")
        budget = SearchBudget(examples, shrinks=False)
        return asking.verdict(case, optimization, runner, budget=budget, folder=tmp_path, fault=where)

    return ask


def test_every_relation_of_decoding_has_a_fault():
    assert {relation for _, relation, *_ in SHOWN} == set(DECODING)


@pytest.mark.workers
@pytest.mark.parametrize(("fault", "relation", "path", "what"), SHOWN, ids=[f"{each[2]}-{each[0]}" for each in SHOWN])
def test_fault_is_shown(asked, fault, relation, path, what):
    verdict = asked(relation, path, fault=fault)
    assert verdict.outcome is Outcome.MISMATCH, verdict.message
    assert re.match(rf"{verdict.case}: fp32 {what} is \S+, but should be at (most|least) ", verdict.message)


@pytest.mark.workers
@pytest.mark.parametrize("relation", DECODING)  # cycles first, so that a path's models are loaded once
@pytest.mark.parametrize("path", [SDPA, STATIC, QUANTIZED])
def test_correct_path_holds(asked, relation, path):
    """transformers refuses drafts for two of these caches, or does not take them back."""
    verdict = asked(relation, path, examples=4)
    if relation in {"prompt_lookup", "assisted"} and path != SDPA:
        assert verdict.outcome is Outcome.UNSUPPORTED, verdict.message
        assert ("Static cache" if path == STATIC else "does not take back drafts") in verdict.message
        return
    assert verdict.outcome is Outcome.PASS, verdict.message
    assert re.match(r"4 examples; closest to its limit: fp32 ", verdict.message)


def test_relations_of_decoding_are_for_every_cache():
    asked = {path.name for path in PATHS if applies(next(each for each in RELATIONS if each.name == "beams"), path)}
    assert {"eager", SDPA, STATIC, QUANTIZED, "caching.none"} <= asked
    assert not {name for name in asked if name.startswith(("compilation.", "parallelism.", "stacks.", "quantization."))}


def logits(*shares):
    return torch.tensor(shares, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("warping", "kept"),
    [
        (Warping(1.0, 0, 1.0, 0.0), (4, 4)),
        (Warping(1.0, 2, 1.0, 0.0), (2, 3)),
        (Warping(1.0, 1, 1.0, 0.0), (1, 1)),
        (Warping(1.0, 0, 0.5, 0.0), (1, 2)),
        (Warping(1.0, 0, 0.6, 0.0), (2, 2)),
        (Warping(1.0, 0, 1.0, 0.5), (1, 1)),
        (Warping(1.0, 0, 1.0, 0.3), (3, 3)),
        (Warping(0.5, 0, 1.0, 0.3), (1, 1)),
    ],
)
def test_kept_tokens_are_as_many_as_defined(warping, kept):
    """Two of these are equally probable: at a threshold both may stay, or one."""
    assert warping.kept(logits(0.5, 0.2, 0.2, 0.1)) == kept


def test_scores_are_processed_in_order():
    """A bias comes before the penalty, and a caller's own processor after all."""
    meant = Processing(biases={(1,): 1.0}, penalty=2.0, lift=3.0, suppressed=(3,))
    scores = meant.scores([1, 0], torch.tensor([-1.0, 1.0, 2.0, 5.0], dtype=torch.float64), prompt=1)
    assert scores.tolist() == [1.0, 4.0, 2.0, -math.inf]


def test_sequences_are_banned_where_they_would_be_complete():
    meant = Processing(bad=((2,), (0, 1)), ngram=2, ends=(4,), least=1, suppressed_first=(5,))
    plain = torch.zeros(7, dtype=torch.float64)
    first = meant.scores([0, 3, 0], plain, prompt=3)
    assert [i for i, score in enumerate(first.tolist()) if score == -math.inf] == [1, 2, 3, 4, 5]
    later = meant.scores([0, 3, 0, 6], plain, prompt=3)
    assert [i for i, score in enumerate(later.tolist()) if score == -math.inf] == [2]


def test_infinite_scores_are_the_same():
    """And a finite one is not the same as an infinite one, on either side."""
    given, defined = [-math.inf, 1.0, 1.0, 1.0, -math.inf], [-math.inf, 1.0, 1.1, -math.inf, 1.0]
    same = same_scores(torch.tensor(given), torch.tensor(defined, dtype=torch.float64))
    assert same.tolist() == [True, True, False, False, False]


def test_beam_search_finds_what_greedy_misses():
    """The best first token leads nowhere."""
    first, then = logits(0.6, 0.4, 1e-9), (logits(0.4, 0.3, 0.3), logits(1e-9, 0.9, 0.1))
    replay = BeamSearch(2, 2, 1.0, early=False).replay([torch.stack([first] * 2).float(), torch.stack(then).float()])
    assert [beam.tokens for beam in replay.finished] == [(1, 1), (0, 0)]
    assert replay.finished[0].score == pytest.approx(math.log(0.4 * 0.9) / 2)
    assert replay.over
    assert replay.steps == 2


def test_beam_search_stops_once_enough_have_finished():
    table = torch.stack([logits(0.4, 0.35, 0.25)] * 2).float()
    early = BeamSearch(2, 5, 1.0, early=True, ends=(0, 1)).replay([table] * 5)
    assert (early.steps, [beam.tokens for beam in early.finished]) == (1, [(0,), (1,)])


def test_equal_scores_are_a_tie():
    table = torch.stack([logits(0.4, 0.4, 0.1, 0.06, 0.04)] * 2).float()
    assert BeamSearch(2, 1, 1.0, early=False).replay([table]).tied


def drawn(tokens, shares=(0.5, 0.3, 0.2)):
    exact = logits(*shares)
    return sampling.Drawn(exact, exact, tokens, Warping(1.0, 0, 1.0, 0.0))


def test_correct_draws_have_a_small_gap():
    rng = random.Random(0)
    places = sorted(drawn(rng.choices(range(3), (0.5, 0.3, 0.2), k=320)).places(rng))
    assert sampling.gap(places) < sampling.gap_by_chance(320)


def test_draws_of_the_best_alone_have_a_large_gap():
    places = sorted(drawn([0] * 320).places(random.Random(0)))
    assert sampling.gap(places) > sampling.gap_by_chance(320)


def test_false_alarms_of_draws_are_rare():
    """Massart's bound, solved for the gap: two comparisons in three precisions make one in a million."""
    size = 320
    assert 2 * math.exp(-2 * size * sampling.gap_by_chance(size) ** 2) * 6 == pytest.approx(1e-6)


def test_drafts_are_counted_by_what_passes_were_given():
    """Of the first draft one is right, of the second both; the last token is never a draft."""
    found = drafts.Drafts.of([[1, 2, 3, 9, 9], [4, 5, 6]], [1, 2], [3, 4, 5, 6, 7])
    assert (found.drafted, found.accepted, found.misplaced) == (5, 3, 0)


@pytest.mark.parametrize(
    "passes",
    [
        [[1, 2, 3, 9], [3, 4, 5, 6]],  # a right draft was dropped
        [[1, 2, 3, 4, 5, 6], [7]],  # a pass after the end
        [[1, 2, 3, 9]],  # the answer is longer than what was accepted
    ],
)
def test_misplaced_passes_are_counted(passes):
    assert drafts.Drafts.of(passes, [1, 2], [3, 4, 5, 6, 7]).misplaced


def test_strings_end_rows_where_they_are_complete():
    """One may begin in the prompt, and one that was complete before does not count."""
    assert ends.stop_at(list("xa"), list("bcd"), ["ab"]) == 1
    assert ends.stop_at(list("xab"), list("cab"), ["ab"]) == 3
    assert ends.stop_at(list("xa"), list("cde"), ["ab"]) == 3
    assert ends.stop_at(["x"], ["ya", "bc", "d"], ["ab"]) == 2


def words_joined(decoder=None, **options):
    """A tokenizer with a token for each word, and one for a part that follows another."""
    vocabulary = {word: i for i, word in enumerate(["play", "##ing", "well", "."])}
    made = Tokenizer(models.WordLevel(vocabulary))
    made.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=made, **options)


@pytest.mark.parametrize(
    "tokenizer",
    [
        words_joined(),  # spaces between words
        words_joined(decoders.WordPiece(cleanup=False)),  # none before a part
        words_joined(decoders.Metaspace("p")),  # of the first token alone a character is dropped
    ],
)
def test_tokens_without_fixed_texts_are_refused(tokenizer):
    with pytest.raises(Incompatible, match="this tokenizer's tokens do not stand for fixed texts"):
        ends.fixed_texts(tokenizer, [2, 0, 1, 3])


def test_tokens_with_fixed_texts_are_read_one_by_one():
    """Spaces before a full stop are not cleaned up, as they are not in what transformers looks for."""
    assert ends.fixed_texts(words_joined(decoders.Fuse()), [2, 0, 3]) == ["well", "play", "."]
    spaced = words_joined(decoders.Fuse(), clean_up_tokenization_spaces=True)
    spaced.add_tokens([" "])
    assert ends.fixed_texts(spaced, [2, 4, 3]) == ["well", " ", "."]


def test_bytes_of_a_character_have_no_text_of_their_own():
    text = "aä.€€z\x07".encode()
    assert "".join(ends.fixed_texts(byte_tokenizer(), list(text))) == "a��.������z\x07"


def test_added_tokens_have_no_text():
    tokenizer = byte_tokenizer()
    assert ends.without_text(tokenizer, 260) == [256, 257, 258, 259]
    assert ends.without_text(tokenizer, 256) == []


def joined(rows, answer):
    """What `stop_strings` gives for a model that always answers the same, and how it was called."""
    calls = []

    def generate(ids, **options):
        calls.append(options)
        return torch.cat([ids, torch.tensor([answer] * len(ids))], dim=1)

    text_config = SimpleNamespace(vocab_size=260)
    model = SimpleNamespace(
        generate=generate,
        generation_config=SimpleNamespace(pad_token_id=0),
        device="cpu",
        config=SimpleNamespace(get_text_config=lambda: text_config),
    )
    subject = Subject(model, next(path for path in PATHS if path.name == "eager"))
    return list(ends.stop_strings(subject, {"rows": rows, "strings": [[0, 3, 2]], "later": [[0, 4, 2]]})), calls


def test_rows_that_no_string_ends_are_wrong(monkeypatch):
    """The model stops for nothing. Added tokens come in neither run."""
    monkeypatch.setattr(ends, "_tokenizer", lambda _model: byte_tokenizer())
    wrong, calls = joined([[1, 9], [2, 12]], list(b"ABCDEFGH"))
    assert [each.got for each in wrong] == [2, 2]
    assert [call["suppress_tokens"] for call in calls] == [[256, 257, 258, 259]] * 3
    assert [call["stop_strings"] for call in calls[1:]] == [["DE"], ["EF"]]


def test_no_string_is_drawn_from_joined_words(monkeypatch):
    monkeypatch.setattr(ends, "_tokenizer", lambda _model: words_joined())
    with pytest.raises(Incompatible, match="do not stand for fixed texts"):
        joined([[1, 9]], [0, 1, 2, 3, 0, 1, 2, 3])


def test_pads_belong_behind_every_end():
    free = [[5, 6, 7], [8, 5, 9]]
    assert ends.unlike([[5, 0], [8, 5]], free, [1, 2], pad=0).got == 0
    assert ends.unlike([[5, 6], [8, 5]], free, [1, 2], pad=0).got == 1


def test_returned_beams_are_read_by_their_rows():
    tables = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])]
    found = beams.FoundBeam(torch.tensor([1, 0, 9]), torch.tensor([0, 1, -1]))
    assert (found.tokens, found.pick(tables), found.padded(9), found.padded(0)) == ((1, 0), [2.0, 7.0], 0, 1)


def test_refusals_are_told_in_the_librarys_words():
    """Any other error goes on as it is."""

    def generate(_ids, **options):
        raise ValueError(options["words"])

    model = SimpleNamespace(generate=generate, generation_config=SimpleNamespace(pad_token_id=0), device="cpu")
    subject = Subject(model, next(path for path in PATHS if path.name == "eager"))
    with pytest.raises(Incompatible, match="assisted generate requires"):
        recording.generate(subject, [[1]], 1, words="assisted generate requires `use_cache=True`")
    with pytest.raises(ValueError, match="another"):
        recording.generate(subject, [[1]], 1, words="another")


def model_of(*shapes):
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    model = torch.nn.ParameterList(parameters)
    model.device = torch.device("cpu")
    return model


def test_a_copy_that_does_not_fit_is_refused():
    """Of 3 MiB of weights, with 2 MiB of factors, and a margin of a tenth."""
    model = model_of((2**19,), (2**18,))
    drafts.demand_room(model, Room(6 * 2**20, "cpu"))
    drafts.demand_room(model, Room(0, "cpu"))  # not known
    with pytest.raises(Incompatible, match=r"copy of the model, which needs 0\.00537 GiB more on cuda: 0\.00"):
        drafts.demand_room(model, Room(5 * 2**20, "cuda"))


def test_room_is_looked_at_before_a_copy_is_made(monkeypatch):
    monkeypatch.setattr(drafts, "available_memory", lambda: 2**20)
    monkeypatch.setattr(drafts.copy, "deepcopy", lambda _: pytest.fail("there was no room for it"))
    with pytest.raises(Incompatible, match="copy of the model"):
        drafts.drafting_copy(model_of((2**19,)))


def test_copies_are_equal_and_differ_from_their_original():
    model = model_of((64, 64), (8,))
    one, other = drafts.drafting_copy(model), drafts.drafting_copy(model)
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert (one[0] - 1).std().item() == pytest.approx(drafts.NUDGE, rel=0.05)
    assert not torch.equal(one[0][0, :8], one[1])  # one generator for all of them
    assert torch.equal(model[0], torch.ones(64, 64))


def test_copies_are_not_kept():
    copied = weakref.ref(drafts.drafting_copy(model_of((8,))))
    assert copied() is None
