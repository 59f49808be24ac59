"""Datasets for retrieval: texts, ids, and which targets answer which query.

What it is for: reading, checking, building and writing them: BEIR folders, pairs from Hugging Face
``datasets``, and the demo sets. What it knows: files, texts, ids, rows and grades, kept in Arrow memory so
that millions of rows cost their bytes and no Python objects. What it must not know: models, tokenizers,
vectors, losses, training.
"""

from __future__ import annotations

from hardwood.data._answers import Answers
from hardwood.data._dataset import RetrievalDataset
from hardwood.data._folder_writer import FolderSummary
from hardwood.data._judgements import Judgements
from hardwood.data._left_out import left_out_in_words
from hardwood.data._table import TextTable
from hardwood.data.beir import read_beir, write_beir
from hardwood.data.check import DataReport, Fact, check_dataset
from hardwood.data.code import read_code, write_code
from hardwood.data.hpo import read_hpo, write_hpo
from hardwood.data.msmarco import write_msmarco
from hardwood.data.nq import write_nq
from hardwood.data.read import read_dataset
from hardwood.data.scale import write_scale
from hardwood.data.taxa import read_taxa, write_taxa
from hardwood.data.unseen import split_unseen
from hardwood.data.zeshel import write_zeshel

__all__ = [
    "Answers",
    "DataReport",
    "Fact",
    "FolderSummary",
    "Judgements",
    "RetrievalDataset",
    "TextTable",
    "check_dataset",
    "left_out_in_words",
    "read_beir",
    "read_code",
    "read_dataset",
    "read_hpo",
    "read_taxa",
    "split_unseen",
    "write_beir",
    "write_code",
    "write_hpo",
    "write_msmarco",
    "write_nq",
    "write_scale",
    "write_taxa",
    "write_zeshel",
]
