"""What a lenient reader leaves out, by kind: the names that reports, run files and metrics have."""

from __future__ import annotations

from collections.abc import Mapping

LENIENT = "; lenient=True (--lenient) leaves out what is broken, and counts it"
"""The end of the messages about what a lenient reader bears."""

NO_TARGET_TEXT = "targets without text"
NO_QUERY_TEXT = "queries without text"
OF_MISSING_QUERY = "judgements of missing queries"
OF_MISSING_TARGET = "judgements of 0 of missing targets"
MISSING_POSITIVE = "missing positives, which count as not found"
NO_POSITIVE_THERE = "queries whose every positive is missing, which count as not answered"
NOT_POSITIVE = "queries judged 0 only"
REPEATED = "repeated judgements"
ANSWERS_OF_MISSING = "answers of missing queries"
UNJUDGED = "queries without a judgement"
NO_PAIR_TEXT = "pairs without a query or a positive"


def left_out_in_words(left_out: Mapping[str, int]) -> str:
    """One line for a report."""
    kinds = "; ".join(f"{kind}: {count:,}" for kind, count in left_out.items())
    return f"left out as broken: {kinds or 'nothing'}"
