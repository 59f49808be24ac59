"""Batches cut into pieces of like length: the same texts, less padding."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exact_softmax import batch_of, gradient_of
from hardwood.data import RetrievalDataset
from hardwood.encoders import load_encoder
from hardwood.negatives import make_source
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss
from hardwood.training.batch import features as features_module
from hardwood.training.batch.features import _cheapest, pieces_of


def _padded(lengths: list[int], left: bool = False) -> dict:
    width = max(lengths) + 2  # two columns that nobody uses
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, width - length :] = 1 if left else mask[row, width - length :]
        mask[row, :length] = mask[row, :length] if left else 1
    ids = mask * torch.arange(1, len(lengths) + 1)[:, None]
    return {"input_ids": ids, "attention_mask": mask, "one": torch.arange(len(lengths)), "task": "query"}


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=20),
    size=st.none() | st.integers(1, 25),
    overhead=st.integers(0, 30),
    left=st.booleans(),
)
def test_pieces_hold_every_text_once_and_no_padding_of_all(
    lengths: list[int], size: int | None, overhead: int, left: bool
) -> None:
    pieces = pieces_of(_padded(lengths, left), len(lengths), size, overhead)
    assert sorted(torch.cat([rows for rows, _ in pieces]).tolist()) == list(range(len(lengths)))
    for one, other in itertools.pairwise(pieces):  # of like length
        assert max(lengths[row] for row in one[0]) <= min(lengths[row] for row in other[0])
    for rows, piece in pieces:
        assert len(rows) <= (size or len(lengths))
        assert piece["one"].tolist() == rows.tolist()
        assert piece["task"] == "query"
        assert piece["input_ids"].shape == (len(rows), max(lengths[row] for row in rows))
        assert (piece["input_ids"].sum(dim=1) == torch.tensor([lengths[row] for row in rows]) * (rows + 1)).all()


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9), overhead=st.integers(0, 40))
def test_the_pieces_are_the_cheapest(lengths: list[int], overhead: int) -> None:
    ascending = np.sort(np.array(lengths))

    def cost(sizes: tuple[int, ...] | list[int]) -> int:
        ends = np.cumsum(sizes)
        return sum(int(size * ascending[end - 1]) + overhead for size, end in zip(sizes, ends, strict=True))

    n = len(lengths)
    every = [
        [b - a for a, b in itertools.pairwise([0, *cuts, n])]
        for count in range(n)
        for cuts in itertools.combinations(range(1, n), count)
    ]
    found = _cheapest(ascending, overhead)
    assert sum(found) == n
    assert cost(found) == min(cost(sizes) for sizes in every)


def test_bags_are_one_piece_unless_cut() -> None:
    bags = {"input_ids": torch.arange(10), "offsets": torch.tensor([0, 4, 4, 9])}
    ((rows, piece),) = pieces_of(bags, 4)
    assert rows.tolist() == [0, 1, 2, 3]
    assert piece["input_ids"].tolist() == list(range(10))
    assert piece["offsets"].tolist() == [0, 4, 4, 9]
    cut = [(rows.tolist(), p["input_ids"].tolist(), p["offsets"].tolist()) for rows, p in pieces_of(bags, 4, 3)]
    assert cut == [([0, 1, 2], list(range(9)), [0, 4, 4]), ([3], [9], [0])]


def test_another_layout_stays_in_one_piece() -> None:
    flat = {"input_ids": torch.arange(10)[None], "cu_seq_lens": torch.tensor([0, 4, 10])}
    ((rows, piece),) = pieces_of(flat, 2, 1)
    assert rows.tolist() == [0, 1]
    assert piece is flat


def test_an_accelerator_gets_fewer_pieces(dataset: RetrievalDataset, transformer_folder: Path) -> None:
    loss = CorpusSoftmaxLoss(load_encoder(str(transformer_folder), device="cpu"), dataset, "uniform")
    features = _padded([3] * 50 + [30] * 2)
    counts = [len(loss._pieces(features, 52, torch.device(kind))) for kind in ("cpu", "cuda")]
    assert counts == [2, 1]


def test_the_cached_loss_tokenises_no_more_than_a_mini_batch(
    dataset: RetrievalDataset, transformer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be cut afterwards, as the one flat sequence of FlashAttention, must have been cut before."""
    model = load_encoder(str(transformer_folder), device="cpu").train()
    source = make_source("uniform", start_step=0)
    loss = CachedCorpusSoftmaxLoss(model, dataset, source, num_negatives=3, mini_batch_size=5)
    asked: list[int] = []
    of = loss._target_features.of
    monkeypatch.setattr(loss._target_features, "of", lambda rows: asked.append(len(rows)) or of(rows))
    loss(*batch_of(model, dataset, range(10)))
    assert len(asked) > 2
    assert max(asked) == 5


def test_pieces_change_neither_loss_nor_gradient(
    dataset: RetrievalDataset, transformer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_encoder(str(transformer_folder), device="cpu").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # masks would differ between one forward pass and many
    features, labels = batch_of(model, dataset, range(0, 40, 2))
    found, passes = [], []
    model.register_forward_pre_hook(lambda _, args: passes.append(tuple(args[0]["input_ids"].shape)))
    for most in (1, 32):
        monkeypatch.setattr(features_module, "_MOST_PIECES", most)
        monkeypatch.setattr("hardwood.training._embedding._OVERHEAD", 0)
        loss = CorpusSoftmaxLoss(model, dataset, make_source("uniform", start_step=0), num_negatives=3)
        passes.clear()
        total = sum(loss(features, labels).values())
        found.append((total.detach(), gradient_of(model, total), list(passes)))
    (whole, whole_gradient, few), (cut, cut_gradient, many) = found
    assert len(few) == 3 < len(many)
    assert sum(rows for rows, _ in few) == sum(rows for rows, _ in many)
    assert sum(rows * width for rows, width in many) < sum(rows * width for rows, width in few)
    torch.testing.assert_close(cut, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cut_gradient, whole_gradient, atol=2e-5, rtol=1e-3)
