"""Natural Questions as the Dense Passage Retrieval release has them: Wikipedia in passages of 100 words, and questions.

The forms are those of https://github.com/facebookresearch/DPR (Karpukhin et al., EMNLP 2020, arXiv:2004.04906).
"""

from __future__ import annotations

import ast
import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hardwood.data.files.folder_writer import FolderSummary, FolderWriter, Place, folder_writer
from hardwood.data.files.json_array import numbered_elements
from hardwood.data.files.lines import numbered_lines
from hardwood.data.files.public_files import find_one, matching
from hardwood.errors import DataError

_PASSAGES = "psgs_w100.tsv"
_QUESTIONS = re.compile(r"(?:biencoder-)?nq-([a-z-]+)\.json")
_ANSWERS = re.compile(r"nq-([a-z-]+)(?:\.qa)?\.csv")
_IDS = ("passage_id", "psg_id", "id")
_ID_PREFIX = "wiki:"  # DPR puts it before the ids of this corpus where it keeps several apart
_LENIENT = "; lenient=True (--lenient) leaves such passages out, and counts them"

Positives = Literal["all", "first"]


def write_nq(
    folder: str | Path,
    source: str | Path,
    *,
    positives: Positives = "all",
    lenient: bool = False,
    overwrite: bool = False,
) -> FolderSummary:
    """Write DPR's release of Natural Questions as a BEIR folder.

    ``source`` holds these files, in folders of any depth, each plain or gzipped, under DPR's names:

    - ``psgs_w100.tsv``: a header, then id, text and title of each passage, tab-separated, quoted as CSV is
    - ``nq-SPLIT.json`` or ``biencoder-nq-SPLIT.json``: an array of objects with ``question``, ``answers``,
      ``positive_ctxs`` and ``hard_negative_ctxs``; a passage in these has ``passage_id``, or is found by its title and
      text
    - ``nq-SPLIT.qa.csv`` or ``nq-SPLIT.csv``: question and a list of answers, tab-separated. It becomes a split that
      is measured by answers alone; where there is a ``nq-SPLIT.json`` it is not read, which a note says.

    Positives are judged 1, hard negatives 0 (for ``given_negatives``); answers go to ``answers.jsonl``.
    ``negative_ctxs`` are not taken over: they were drawn at random. Memory holds some 250 bytes for each passage that
    a question names, and 8 for every other.

    Args:
        folder: to write; new or empty.
        source: folder of the files.
        positives: ``"all"`` passages in ``positive_ctxs``, or the ``"first"`` alone, which is what DPR trains on; the
            others are not judged then.
        lenient: leave out, with a count, what questions name and the passages lack.
        overwrite: whether a dataset that is there may be replaced.

    Raises:
        DataError: for a file that is missing or can't be read, naming file and line.
        ValueError: for other ``positives``.
    """
    if positives not in ("all", "first"):
        raise ValueError(f'positives must be "all" or "first", got {positives!r}')
    source = Path(source)
    passages = find_one(source, _PASSAGES)
    questions, answers = matching(source, _QUESTIONS), matching(source, _ANSWERS)
    if "train" not in questions:
        raise DataError("there is no nq-train.json (or biencoder-nq-train.json, plain or gzipped) in it", source)
    with folder_writer(folder, overwrite=overwrite) as writer:
        named = _Named()
        splits = [_read_questions(writer, split, path, positives, named) for split, path in questions.items()]
        for split, path in answers.items():
            if split in questions:
                writer.note(f"{path.name} is not read: the split {split} is that of {questions[split].name}")
            else:
                _read_answers(writer, split, path)
        for place, identifier, title, text in _passages(passages):
            writer.target(identifier, title, text, place)
            named.meet(identifier, title, text)
        for one in splits:
            _write_judgements(writer, one, named, lenient)
    return writer.summary


@dataclass
class _Named:
    """The passages that questions name: by a hash of the id, or of title and text, the id under which it was met."""

    ids: dict[int, str | None] = field(default_factory=dict)
    by_text: bool = False

    def key(self, passage: Any, place: Place) -> int:
        """Of a passage that a question names."""
        if not isinstance(passage, dict):
            raise DataError(f"a passage of this question is a {type(passage).__name__}, not an object", *place)
        identifier = next((str(passage[name]) for name in _IDS if passage.get(name) not in (None, "")), None)
        if identifier is not None:
            key = hash(identifier.removeprefix(_ID_PREFIX))
        else:
            title, text = passage.get("title") or "", passage.get("text")
            if not isinstance(title, str) or not isinstance(text, str):
                raise DataError("a passage of this question has neither passage_id nor text", *place)
            key, self.by_text = _text_key(title, text), True
        self.ids.setdefault(key, None)
        return key

    def meet(self, identifier: str, title: str, text: str) -> None:
        """A passage of the corpus."""
        key = hash(identifier)
        if key in self.ids:
            self.ids[key] = identifier
        if self.by_text:
            key = _text_key(title, text)
            if key in self.ids and self.ids[key] is None:
                self.ids[key] = identifier


@dataclass
class _Split:
    """What the questions of one file name; "place" means one of ``keys``.

    Attributes:
        name: of the split.
        path: the file.
        lines: where each question begins.
        ends: how many passages the questions up to each name.
        keys: of these passages, positives before negatives.
        num_positives: of each question.
        answers: of each question.
    """

    name: str
    path: Path
    lines: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("q"))
    num_positives: array[int] = field(default_factory=lambda: array("q"))
    answers: list[tuple[str, ...]] = field(default_factory=list)


def _read_questions(writer: FolderWriter, name: str, path: Path, positives: Positives, named: _Named) -> _Split:
    """Write the questions, and gather what they name."""
    split = _Split(name, path)
    for line, record in numbered_elements(path):
        place = Place(path, line)
        if not isinstance(record, dict) or not isinstance(record.get("question"), str):
            raise DataError("the element that begins on this line is no object with a question", *place)
        right, wrong = (record.get(kind) or [] for kind in ("positive_ctxs", "hard_negative_ctxs"))
        if not isinstance(right, list) or not isinstance(wrong, list):
            raise DataError("positive_ctxs and hard_negative_ctxs must be lists", *place)
        right = right[:1] if positives == "first" else right
        writer.query(f"{name}-{len(split.lines)}", record["question"], place)
        split.keys.extend(named.key(passage, place) for passage in [*right, *wrong])
        split.lines.append(line)
        split.ends.append(len(split.keys))
        split.num_positives.append(len(right))
        split.answers.append(_texts(record.get("answers") or [], place, writer))
    if not split.lines:
        raise DataError("the array holds no question", path)
    return split


def _write_judgements(writer: FolderWriter, split: _Split, named: _Named, lenient: bool) -> None:
    """The judgements and answers of one file's questions, now that the passages are known."""
    left_out = writer.summary.left_out
    alone = begin = 0
    for number, (line, end) in enumerate(zip(split.lines, split.ends, strict=True)):
        query, place, seen = f"{split.name}-{number}", Place(split.path, line), set()
        is_judged = False
        for at in range(begin, end):
            grade = int(at - begin < split.num_positives[number])
            target = named.ids[split.keys[at]]
            if target is None:
                kind = "positive_ctxs" if grade else "hard_negative_ctxs"
                left_out[f"{kind} that are not in the passages"] += 1
                if not lenient:
                    raise DataError(
                        f"the question that begins on this line has a passage in {kind} (at {at - begin}, counting "
                        f"both lists from 0) that is not in the passages{_LENIENT}",
                        *place,
                    )
            elif target in seen:
                left_out["passages that a question names twice (the first counts)"] += 1
            elif grade or is_judged:  # a negative alone would be no judgement of the query
                seen.add(target)
                is_judged = True
                writer.judge(split.name, query, target, grade, place)
        begin = end
        answers = split.answers[number]
        alone += not is_judged
        if not is_judged and not answers:
            raise DataError(
                "the question that begins on this line has neither a positive nor answers: remove it, or give it one",
                *place,
            )
        if answers:
            writer.answer(query, answers, place, None if is_judged else split.name)
        writer.count(split.name)
    if alone == len(split.lines):
        writer.note(f"{split.path.name}: no question has a positive passage, so {split.name} is measured by answers")
    elif alone:
        writer.note(f"{split.path.name}: {alone:,} questions have no positive passage, and are measured by answers")


def _read_answers(writer: FolderWriter, split: str, path: Path) -> None:
    """A file of questions and answers, and nothing else."""
    for number, (place, row) in enumerate(_rows(path, 2, "question and answers")):
        try:
            answers = ast.literal_eval(row[1])
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise DataError(f"the answers are no list as Python writes it: {row[1]!r}"[:300], *place) from error
        query, found = f"{split}-{number}", _texts(answers, place, writer)
        if not found:
            raise DataError("the question on this line has no answers", *place)
        writer.query(query, row[0], place)
        writer.answer(query, found, place, split)
        writer.count(split)


def _passages(path: Path) -> Iterator[tuple[Place, str, str, str]]:
    """Id, title and text of each passage."""
    rows = _rows(path, 3, "id, text and title")
    for number, (place, (identifier, text, title)) in enumerate(rows):
        if number or identifier != "id":  # the header
            yield place, identifier, title, text


def _rows(path: Path, width: int, columns: str) -> Iterator[tuple[Place, list[str]]]:
    """The rows of tab-separated values with CSV's quotes, a line each."""
    for number, line in numbered_lines(path):
        try:
            row = next(csv.reader([line], delimiter="\t", strict=True))
        except csv.Error as error:
            raise DataError(f"this line is not tab-separated with CSV's quotes: {error}", path, number) from error
        if len(row) != width:
            raise DataError(f"this line has {len(row)} columns, not {width} ({columns})", path, number)
        yield Place(path, number), row


def _texts(answers: Any, place: Place, writer: FolderWriter) -> tuple[str, ...]:
    """Answers that say something: an empty one would be found in every passage."""
    if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
        raise DataError(f"answers must be a list of texts, got {answers!r}"[:300], *place)
    found = tuple(text for text in answers if text.strip())
    writer.summary.left_out["empty answers"] += len(answers) - len(found)
    return found


def _text_key(title: str, text: str) -> int:
    """The same for texts that differ in white space and outer quotes, as releases do."""
    return hash((" ".join(title.split()), " ".join(text.strip('"').split())))
