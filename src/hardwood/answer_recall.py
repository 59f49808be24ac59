"""Recall by answer strings: whether one of the first k passages holds an answer to the question.

What it is for: measuring retrieval for open-domain questions, whose answers may stand in passages without
judgements. As Dense Passage Retrieval measures it (Karpukhin et al., EMNLP 2020, arXiv:2004.04906), to the letter:
texts are normalised to NFD, cut into words (runs of letters, digits and marks; any other visible character is one)
and put into lower case, and an answer is found where its words stand in a row. The title of a passage doesn't count.
What it knows: texts, answers, rankings. What it must not know: models.
"""

from __future__ import annotations

import functools
import unicodedata
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset, TextTable

CUTOFFS = (1, 5, 10, 20, 100)
"""The k of ``answer_recall@k``."""

NAMES = tuple(f"answer_recall@{k}" for k in CUTOFFS)

_PASSAGES_AT_A_TIME = 4096


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether a passage holds one of the answers, word for word.

    An answer without any word is found in every passage, as in DPR.

    Args:
        text: of the passage, without its title.
        answers: any of which will do.
    """
    passage = _in_a_row(text)
    return any(_in_a_row(answer) in passage for answer in answers)


def first_answers(ranking: NDArray[np.int64], corpus: TextTable, answers: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """The rank, from 0, of the first passage of each ranking that holds an answer.

    Args:
        ranking: ``(m, k)`` rows of the corpus, best first; -1 fills up where fewer were found.
        corpus: the passages.
        answers: of each of the m questions.

    Returns:
        ``(m,)`` int64; ``k`` where none holds one.
    """
    count, depth = ranking.shape
    found = np.full(count, depth, dtype=np.int64)
    wanted = [[_in_a_row(answer) for answer in own] for own in answers]
    if empty := sum(any(not answer.strip() for answer in own) for own in wanted):
        warnings.warn(
            f"{empty:,} questions have an answer without any word, which counts as found in every passage", stacklevel=2
        )
    # Rank by rank, so that a query that has found an answer needs no further passage.
    for rank in range(depth):
        open_rows = np.flatnonzero((found == depth) & (ranking[:, rank] >= 0))
        for start in range(0, len(open_rows), _PASSAGES_AT_A_TIME):
            block = open_rows[start : start + _PASSAGES_AT_A_TIME]
            texts = [fields["text"] for fields in corpus.fields(ranking[block, rank])]
            hits = [any(answer in _in_a_row(text) for answer in wanted[row]) for row, text in _pairs(block, texts)]
            found[block[np.array(hits, dtype=bool)]] = rank
    return found


def answer_recall(ranking: NDArray[np.int64], corpus: TextTable, answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """``answer_recall@k``: the share of questions with an answer among the first k passages, for each of `CUTOFFS`.

    Args:
        ranking, corpus, answers: as for `first_answers`; m at least 1.
    """
    found, depth = first_answers(ranking, corpus, answers), ranking.shape[1]
    return {name: float((found < min(k, depth)).mean()) for name, k in zip(NAMES, CUTOFFS, strict=True)}


def answered_alone(dataset: RetrievalDataset, split: str) -> NDArray[np.int64]:
    """The rows of a split's queries that have answers but no judgement."""
    nothing = np.zeros(0, dtype=np.int64)
    return nothing if dataset.answers is None else dataset.answers.splits.get(split, nothing)


def measure_answers(
    ranking: NDArray[np.int64], query_rows: NDArray[np.int64], dataset: RetrievalDataset
) -> dict[str, float]:
    """`answer_recall` over those of the queries that have answers; empty where none has.

    Args:
        ranking: ``(m, k)`` rows of the corpus, as for `first_answers`.
        query_rows: ``(m,)`` whose rankings they are.
        dataset: its corpus and answers.
    """
    known = {} if dataset.answers is None else dataset.answers.texts
    places = [place for place, row in enumerate(query_rows.tolist()) if row in known]
    if not places:
        return {}
    return answer_recall(ranking[places], dataset.corpus, [known[row] for row in query_rows[places].tolist()])


def _pairs(rows: NDArray[np.int64], texts: Sequence[str]) -> list[tuple[int, str]]:
    return list(zip(rows.tolist(), texts, strict=True))


def _in_a_row(text: str) -> str:
    """The words of a text between spaces: words stand in a row in a text where their string stands in its string."""
    words = _words().findall(unicodedata.normalize("NFD", text))
    return f" {' '.join(words).lower()} " if words else " "


@functools.cache
def _words() -> Any:
    import regex  # type: ignore[import-untyped]  # of transformers: re knows no letters and marks by class

    return regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
