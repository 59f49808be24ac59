"""Small files of exactly the forms that public releases have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Writes them; a name that ends in .gz is gzipped."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return folder


def lines(*records: Mapping[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def passage(identifier: str, text: str, title: str) -> dict[str, Any]:
    """As the training files of DPR's NQ have them."""
    return {"title": title, "text": text, "score": 1000, "title_score": 1, "passage_id": identifier}


# Wikipedia in passages: a header, tabs, CSV's quotes where a text has any.
PSGS = (
    "id\ttext\ttitle\n"
    '1\t"Aaron is a prophet, ""high priest"", and the brother of Moses."\tAaron\n'
    "2\tThe Café Müller opened in 1985 in Wuppertal.\tCafé Müller\n"
    '3\t"He was born in Egypt, in the year 1393 BCE."\tAaron\n'
    "4\tOaks are hardwoods.\tOak\n"
)
NQ_TRAIN: list[dict[str, Any]] = [
    {
        "dataset": "nq_train_psgs_w100",
        "question": "who is the brother of moses",
        "answers": ["Aaron"],
        "positive_ctxs": [
            passage("1", 'Aaron is a prophet, "high priest", and the brother of Moses.', "Aaron"),
            passage("3", "He was born in Egypt, in the year 1393 BCE.", "Aaron"),
        ],
        "negative_ctxs": [passage("2", "The Café Müller opened in 1985 in Wuppertal.", "Café Müller")],
        "hard_negative_ctxs": [passage("4", "Oaks are hardwoods.", "Oak"), passage("3", "He was born", "Aaron")],
    },
    {
        "dataset": "nq_train_psgs_w100",
        "question": "what are oaks",
        "answers": ["hardwoods", "trees"],
        "positive_ctxs": [{"title": "Oak", "text": "Oaks are  hardwoods. "}],
        "negative_ctxs": [],
        "hard_negative_ctxs": [],
    },
]
NQ_DEV: list[dict[str, Any]] = [
    {
        "question": "when did café müller open",
        "answers": ["1985"],
        "positive_ctxs": [passage("wiki:2", "", "Café Müller")],
        "negative_ctxs": [],
        "hard_negative_ctxs": [],
    },
    {
        "question": "who was born",
        "answers": ["nobody at all"],
        "positive_ctxs": [],
        "negative_ctxs": [],
        "hard_negative_ctxs": [passage("4", "Oaks are hardwoods.", "Oak")],
    },
]
NQ: dict[str, str] = {
    "data/wikipedia_split/psgs_w100.tsv.gz": PSGS,
    "data/retriever/biencoder-nq-train.json.gz": json.dumps(NQ_TRAIN, indent=4),
    "data/retriever/nq-dev.json": json.dumps(NQ_DEV),
    "data/retriever/qas/nq-test.csv": (
        "where did cafe muller open\t['Wuppertal', \"Wuppertal 's centre\"]\n"
        '"who is ""high priest"""\t[\'the prophet Aaron\']\n'
    ),
    "nq-dev.qa.csv": "when did café müller open\t['1985']\n",
}

MSMARCO: dict[str, str] = {
    "collection.tsv": (
        '0\tThe presence of "communication" amid scientific minds\n'
        "1\tThe Manhattan Project and its atomic bomb\n"
        "2\tEssay on The Manhattan Project\n"
        "7187158\tAndrogen receptor define\n"
    ),
    "queries.train.tsv": "121352\tdefine extreme\n634306\twhat does chattel mean\n920825\tno judgement\n",
    "queries.dev.tsv": "1048578\tcost of endless pools\n1048579\twhat is pcnt\n",
    "queries.dev.small.tsv": "1048578\tcost of endless pools\n",
    "qrels.train.tsv": "121352\t0\t0\t1\n634306\t0\t1\t1\n634306\t0\t2\t1\n",
    "qrels.dev.tsv": "1048578\t0\t7187158\t1\n1048579\t0\t2\t1\n",
    "qrels.dev.small.tsv": "1048578\t0\t7187158\t1\n",
    "qidpidtriples.train.full.2.tsv.gz": (
        "121352\t0\t1\n121352\t0\t2\n121352\t0\t1\n121352\t0\t7187158\n634306\t1\t2\n920825\t1\t0\n"
    ),
}

ZESHEL: dict[str, str] = {
    "documents/starwars.json": lines(
        {
            "document_id": "000523A4D586C293",
            "title": "Warner",
            "text": "Warner Warner was a technician of C . W . Jessen",
        },
        {"document_id": "33B704F9C31B1D57", "title": "Jessen", "text": "Jessen Jessen led the base"},
    ),
    "documents/lego.json.gz": lines(
        {"document_id": "0009247003C7CB16", "title": "Winnie Tyler", "text": "Winnie Tyler Winnie Tyler is red"},
    ),
    "mentions/train.json": lines(
        {
            "mention_id": "A67C0D65787A42DB",
            "context_document_id": "000523A4D586C293",
            "corpus": "starwars",
            "start_index": 6,
            "end_index": 10,
            "text": "C . W . Jessen",
            "label_document_id": "33B704F9C31B1D57",
            "category": "LOW_OVERLAP",
        }
    ),
    "mentions/val.json": lines(
        {
            "mention_id": "B7C96945B4EB593F",
            "context_document_id": "33B704F9C31B1D57",
            "corpus": "starwars",
            "start_index": 4,
            "end_index": 4,
            "text": "base",
            "label_document_id": "000523A4D586C293",
            "category": "LOW_OVERLAP",
        }
    ),
    "mentions/test.json": lines(
        {
            "mention_id": "C7C96945B4EB593F",
            "context_document_id": "0009247003C7CB16",
            "corpus": "lego",
            "start_index": 0,
            "end_index": 1,
            "text": "Winnie Tyler",
            "label_document_id": "0009247003C7CB16",
            "category": "HIGH_OVERLAP",
        }
    ),
}
