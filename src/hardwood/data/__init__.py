"""Datasets for retrieval: texts, ids, and which targets answer which query.

What it is for: reading, checking, building and writing them: BEIR folders, pairs from Hugging Face
``datasets``, and the demo sets. What it knows: files, texts, ids, rows and grades, kept in Arrow memory so
that millions of rows cost their bytes and no Python objects. What it must not know: models, tokenizers,
vectors, losses, training.
"""

from __future__ import annotations

from hardwood.data._dataset import RetrievalDataset
from hardwood.data.beir import read_beir, write_beir
from hardwood.data.check import DataReport, Fact, check_dataset
from hardwood.data.converters.code import read_code, write_code
from hardwood.data.converters.hpo import read_hpo, write_hpo
from hardwood.data.converters.msmarco import write_msmarco
from hardwood.data.converters.nq import write_nq
from hardwood.data.converters.scale import write_scale
from hardwood.data.converters.taxa import read_taxa, write_taxa
from hardwood.data.converters.zeshel import write_zeshel
from hardwood.data.files.answers import Answers
from hardwood.data.files.folder_writer import FolderSummary
from hardwood.data.files.left_out import left_out_in_words
from hardwood.data.read import read_dataset
from hardwood.data.records.judgements import Judgements
from hardwood.data.records.table import TextTable
from hardwood.data.unseen import split_unseen

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
