"""What a library announces to end is noted while a path runs, with the release that it names."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import pytest

from harness.execution.deprecations import deprecation_of, deprecations_noted
from harness.judging.correctness import judge
from harness.records.enums import Dtype, Property, Tolerance
from harness.records.evidence import Evidence
from harness.records.observation import Deprecation
from harness.records.run import Run
from harness.reports.markdown import markdown
from harness.reports.tables import announced
from suites.meta.builders.commands import TRUST
from suites.meta.builders.evidence import rung
from suites.meta.builders.recorded_runs import ENVIRONMENT, FLASH, SDPA, verdict


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ("`x` is deprecated and will be removed in v5.19.", "5.19"),
        ("`x` is deprecated and will be removed in Transformers v6. It now decodes", "6"),
        ("`x` is deprecated. It will be removed in version 5.18.0 of it", "5.18.0"),
        ("Passing x will no longer be supported; it raises an error from version 2.16 on", "2.16"),
        ("`use_kernel_func_from_hub` is deprecated in transformers v5.16 and will be removed in the future.", ""),
        ("x is deprecated, use y", ""),
        ("x is deprecated and will raise an error in 4-bit mode", ""),
        ("x is deprecated and will be removed in the next 2 releases", ""),
        ("x is deprecated and will be removed in a future version (current: 5.22.2)", ""),
        ("x is deprecated and will be dropped after 5.30", "5.30"),
        ("x is deprecated and unsupported starting 5.20", "5.20"),
        ("The removal is planned for release 2.16", "2.16"),
        ("`kwarg` is deprecated and will be removed in version 6.0.0 for `generate`. Use `cache` instead.", "6.0.0"),
    ],
)
def test_release_of_the_end_is_that_which_the_library_names(said, ends):
    """That since which something is deprecated is another."""
    assert deprecation_of(said) == Deprecation(said, ends)


@pytest.mark.parametrize(
    "said", ["You are using a model of type llama 5.19", "Padding tokens were removed in 3 rows", "fused in 2.13"]
)
def test_what_announces_nothing_is_none(said):
    assert deprecation_of(said) is None


@pytest.mark.parametrize("name", ["torch._dynamo.of_this_test", "ContinuousBatchingLogger"])
def test_loggers_that_pass_nothing_on_are_heard(monkeypatch, name):
    """torch's main ones are such, and that of continuous batching, which does not even bear its library's name."""
    logger = logging.getLogger(name)
    monkeypatch.setattr(logger, "propagate", False)
    with deprecations_noted() as noted:
        logger.warning("x is deprecated")
    assert noted == [Deprecation("x is deprecated")]


def test_warnings_and_loggers_are_heard_once_each_and_still_shown():
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        with deprecations_noted() as noted:
            for _ in range(2):
                warnings.warn("a is deprecated", FutureWarning, stacklevel=1)
                logging.getLogger("transformers.some.module").warning("b will be removed in v6")
            warnings.warn("c is odd", UserWarning, stacklevel=1)
        warnings.warn("d is deprecated", FutureWarning, stacklevel=1)
    assert noted == [Deprecation("a is deprecated"), Deprecation("b will be removed in v6", "6")]
    assert shown == ["a is deprecated"] * 2 + ["c is odd", "d is deprecated"]
    assert logging.getLogger("torch").handlers == [
        handler for handler in logging.getLogger("torch").handlers if type(handler).__name__ != "_Listener"
    ]


def test_verdict_on_engagement_and_reports_tell_it():
    run = replace(rung(Dtype.FP32), deprecations=(Deprecation("b will be removed in v6", "6"),))
    evidence = Evidence(SDPA.id, Tolerance.REORDERED, (run,), (TRUST,))
    engagement = judge(SDPA, Property.ENGAGEMENT, evidence)
    assert engagement.announced == ("b will be removed in v6 (ends with 6)",)
    assert judge(SDPA, Property.EQUIVALENCE, evidence).announced == ()
    of_eager = replace(evidence, trusts=(replace(TRUST, deprecations=run.deprecations),))
    assert judge(SDPA, Property.ENGAGEMENT, of_eager).announced == ()
    other = replace(verdict(FLASH), announced=engagement.announced)
    line = "attention.sdpa, attention.sdpa_flash: b will be removed in v6 (ends with 6)"
    assert announced([engagement, other]) == [line]
    page = markdown(Run(3, None, ENVIRONMENT, "2026-01-01", "2026-01-01", 0, (engagement, other)))
    assert "## Announced to end" in page
    assert "b will be removed in v6" in page
