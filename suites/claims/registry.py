"""All claims: a new one is one function and one entry."""

from __future__ import annotations

from suites.claims.examples import EXAMPLES
from suites.claims.sentences import SENTENCES
from suites.claims.ticks import TICKED

CLAIMS = (*TICKED, *SENTENCES, *EXAMPLES)
