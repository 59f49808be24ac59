"""What people decide on suspected false negatives, and its way back into the data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardwood._json import parse_object
from hardwood._ragged import RaggedRows
from hardwood.data import Judgements, RetrievalDataset
from hardwood.errors import DataError

POSITIVE, NEGATIVE = "positive", "negative"
_WORDS = (POSITIVE, NEGATIVE)
_LONGEST = 1 << 20
_SHOWN = 4000


@dataclass(frozen=True)
class Decision:
    """One line of ``decisions.jsonl``.

    Attributes:
        query_id: of the query.
        target_id: of the target.
        decision: ``"positive"`` (it answers the query) or ``"negative"``.
        split: whose judgements it belongs to; ``None``: the split that was trained on.
        check: `pair_check` of the texts that were looked at; ``None``: not checked.
        line: in the file, from 1.
    """

    query_id: str
    target_id: str
    decision: str
    split: str | None
    check: str | None
    line: int


@dataclass(frozen=True)
class Cleaned:
    """What `add_decisions` has done.

    Attributes:
        dataset: with the positives added.
        added: new positives.
        known: decided positives that were positives before.
        replaced: judgements of 0 or below that a decided positive has replaced.
        negatives: decided negatives, which change nothing: an unjudged target counts as one already.
    """

    dataset: RetrievalDataset
    added: int
    known: int
    replaced: int
    negatives: int


def pair_check(query: str, target: str) -> str:
    """16 hexadecimal digits of a hash of both texts: ids that mean other texts by now are noticed."""
    parts = [str(len(query)), query, target]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def read_decisions(path: str | Path) -> list[Decision]:
    """The decisions in a file that a report has exported, or that was written by hand: JSON lines with ``query_id``,
    ``target_id``, ``decision`` and, if you like, ``split`` and ``check``.

    Raises:
        DataError: a line that is none, the same pair decided in two ways, or no line at all; with its number.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise DataError(f"{what}; a report exports decisions.jsonl", path)
    found: dict[tuple[str, str, str | None], Decision] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if len(line) > _LONGEST:
                raise DataError(f"this line has {len(line):,} bytes, far more than a decision needs", path, number)
            if not line.strip():
                continue
            decision = _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, path, number)
            key = decision.query_id, decision.target_id, decision.split
            before = found.setdefault(key, decision)
            if before.decision != decision.decision:
                raise DataError(
                    f"the pair {decision.query_id!r}, {decision.target_id!r} is {decision.decision} here and "
                    f"{before.decision} on line {before.line}: keep one of them",
                    path,
                    number,
                )
    if not found:
        raise DataError("holds no decisions", path)
    return list(found.values())


def add_decisions(
    dataset: RetrievalDataset, decisions: list[Decision], *, train_split: str = "train", where: Path | None = None
) -> Cleaned:
    """A dataset whose judgements have the targets that were decided to be positives, with a grade of 1.

    Args:
        dataset: the one that the decisions are about.
        decisions: of `read_decisions`.
        train_split: the split of decisions that name none.
        where: their file, for messages.

    Raises:
        DataError: a query, target or split that is not in the dataset, a query that the split does not judge, or texts
            that are not those that were looked at.
    """
    query_rows = dataset.queries.find([one.query_id for one in decisions])
    target_rows = dataset.corpus.find([one.target_id for one in decisions])
    new: dict[str, list[tuple[int, int]]] = {}
    for one, query, target in zip(decisions, query_rows.tolist(), target_rows.tolist(), strict=True):
        split = one.split or train_split
        for row, name, given in ((query, "query", one.query_id), (target, "target", one.target_id)):
            if row < 0:
                raise DataError(f"there is no {name} {given!r} in {dataset.name}", where, one.line)
        if split not in dataset.splits:
            raise DataError(
                f"there is no split {split!r}; {dataset.name} has {', '.join(dataset.splits)}", where, one.line
            )
        if one.check is not None:
            texts = dataset.queries.texts([query])[0], dataset.corpus.texts([target])[0]
            if pair_check(*texts) != one.check:
                raise DataError(
                    f"the texts of {one.query_id!r} and {one.target_id!r} are not those that were looked at: now they "
                    f"are {texts[0][:60]!r} and {texts[1][:60]!r}. Give the data that the report is about, read in the "
                    "same way",
                    where,
                    one.line,
                )
        if query not in dataset.splits[split].queries:
            raise DataError(f"the split {split!r} does not judge the query {one.query_id!r}", where, one.line)
        if one.decision == POSITIVE:
            new.setdefault(split, []).append((query, target))
    splits, added, known, replaced = dict(dataset.splits), 0, 0, 0
    for name, pairs in new.items():
        splits[name], counts = _with_positives(splits[name], np.array(sorted(set(pairs)), dtype=np.int64))
        added, known, replaced = added + counts[0], known + counts[1], replaced + counts[2]
    made = RetrievalDataset(dataset.corpus, dataset.queries, splits, dataset.name, dataset.left_out)
    return Cleaned(made, added, known, replaced, sum(one.decision == NEGATIVE for one in decisions))


def read_suspects(path: Path, most: int) -> list[dict[str, Any]]:
    """The first lines of ``suspected_false_negatives.jsonl``, each with the names that a page needs.

    Args:
        path: of the file; none gives an empty list.
        most: how many lines.

    Raises:
        DataError: a line that is none.
    """
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if len(found) == most:
                break
            record = parse_object(line, path)
            if not all(isinstance(record.get(name), str) for name in ("query_id", "query", "target_id", "target")):
                raise DataError("this line is no suspected false negative: it lacks ids or texts", path, number)
            positives = record.get("positives")
            record["positives"] = [str(text) for text in positives] if isinstance(positives, list) else []
            found.append(record)
    return found


def _parse(line: bytes, path: Path, number: int) -> Decision:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not readable JSON ({error})", path, number) from None
    names = ("query_id", "target_id", "decision")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in names):
        raise DataError(f"a decision is an object with the texts {', '.join(names)}", path, number)
    if record["decision"] not in _WORDS:
        raise DataError(f"a decision is {' or '.join(_WORDS)}, got {record['decision']!r}", path, number)
    split, check = record.get("split"), record.get("check")
    if not all(value is None or isinstance(value, str) for value in (split, check)):
        raise DataError("split and check are texts, where they are given", path, number)
    return Decision(record["query_id"], record["target_id"], record["decision"], split, check, number)


def _with_positives(judgements: Judgements, pairs: Any) -> tuple[Judgements, tuple[int, int, int]]:
    """Judgements with further positive pairs ``(p, 2)`` of query rows and target rows, each with a grade of 1; and how
    many were added, were positives before, and were judged otherwise before."""
    place_of = {row: place for place, row in enumerate(judgements.queries.tolist())}
    places = np.array([place_of[query] for query, _ in pairs.tolist()], dtype=np.int64)
    size = 1 + max(int(pairs[:, 1].max()), int(judgements.positives.values.max(initial=0)))
    old_keys = judgements.positives.row_ids() * size + judgements.positives.values
    keys = places * size + pairs[:, 1]
    is_new = ~np.isin(keys, old_keys)
    rows = np.concatenate([judgements.positives.row_ids(), places[is_new]])
    values = np.concatenate([judgements.positives.values, pairs[is_new, 1]])
    grades = np.concatenate([judgements.grades, np.ones(int(is_new.sum()), dtype=np.int32)])
    order = np.lexsort((values, rows))
    changed = dataclasses.replace(
        judgements,
        positives=RaggedRows.from_pairs(rows, values, len(judgements)),
        grades=grades[order].astype(np.int32),
    )
    replaced = 0
    if judgements.negatives is not None and judgements.negative_grades is not None:
        of, negatives = judgements.negatives.row_ids(), judgements.negatives.values
        size = max(size, 1 + int(negatives.max(initial=0)))
        stays = ~np.isin(of * size + negatives, places * size + pairs[:, 1])
        replaced = int((~stays).sum())
        counts = np.bincount(of[stays], minlength=len(judgements))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        changed = dataclasses.replace(
            changed,
            negatives=RaggedRows(offsets, negatives[stays]),
            negative_grades=judgements.negative_grades[stays],
        )
    return changed, (int(is_new.sum()), int((~is_new).sum()), replaced)
