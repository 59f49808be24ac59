"""The files of a small BEIR folder."""

from __future__ import annotations

FILES = {
    "corpus.jsonl": (
        '{"_id": "d1", "title": "Oak", "text": "a hardwood"}\n'
        '{"_id": 2, "text": "a softwood"}\n'
        '{"_id": "d3", "title": "", "text": "balsa"}\n'
    ),
    "queries.jsonl": (
        '{"_id": "q1", "text": "hard?"}\n{"_id": "q2", "text": "soft?"}\n{"_id": 3, "text": "light?"}\n'
    ),
    "qrels/train.tsv": "query-id\tcorpus-id\tscore\nq2\t2\t1\nq2\td1\t0\nq1\td3\t2\nq1\td1\t1\n",
    "qrels/test.tsv": "query-id\tcorpus-id\tscore\n3\td3\t1\n",
}
