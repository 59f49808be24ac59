"""All targets' vectors in one plain matrix, drawn from by brute force: the tree's alternative, on any device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hardwood._checkpoint_tensors import FLOATS, Wanted, expect, read_state, write_state
from hardwood._files import folder_written_whole, recover
from hardwood.negatives.records import Floats, Ints
from hardwood.negatives.softmax_matrix import SoftmaxIndex

if TYPE_CHECKING:
    from hardwood.tree.arrays.projection import Projection

_FILE = "flat.safetensors"
_MOST_HALVINGS = 16
"""65,536 neighbourhoods: far more than there are landmarks."""


class FlatIndex:
    """The softmax over a matrix of vectors, with what the dynamic source asks of a `hardwood.tree.TargetIndex`.

    Ids are rows of the matrix. Nothing is estimated, so draws are exact samples; nothing wears, so `repair` has nothing
    to do. A draw costs ``n d`` products a query.

    Args:
        vectors: ``(n, d)``, float32 or bfloat16, on the device that draws are made on. Kept, and written to.
        log_prior: ``(n,)`` float32, ``log π_i``; ``None``: 0.
        projection: what vectors and queries come reduced by; ``None``: all dimensions are kept.
    """

    def __init__(self, vectors: Tensor, log_prior: Tensor | None = None, projection: Projection | None = None) -> None:
        self.matrix = SoftmaxIndex(vectors, log_prior)
        self.projection = projection

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self.matrix.vectors.shape[1]

    @property
    def has_prior(self) -> bool:
        """Whether targets have a prior."""
        return self.matrix.log_prior is not None

    def vectors(self, ids: Ints) -> Floats:
        """The vectors of ``ids`` ``(m,)``: ``(m, d)`` float32, a copy on the CPU."""
        return self.rows(torch.from_numpy(ids)).cpu().numpy()

    def rows(self, ids: Tensor) -> Tensor:
        """As `vectors`, of a tensor, where the index is."""
        return self.matrix.vectors[ids.to(self.matrix.vectors.device)].float()

    def log_prior(self, ids: Ints) -> Floats:
        """``log π`` of ``ids`` ``(m,)``: ``(m,)`` float32."""
        if self.matrix.log_prior is None:
            return np.zeros(len(ids), dtype=np.float32)
        return self.matrix.log_prior.cpu().numpy()[ids]

    def update(self, vectors: Floats, ids: Ints) -> None:
        """Write ``vectors`` ``(m, d)`` float32 for ``ids`` ``(m,)``, each once.

        Raises:
            ValueError: for vectors that are not finite; nothing is changed.
        """
        if not np.isfinite(vectors).all():
            raise ValueError("vectors hold NaN or infinite numbers: the encoder has diverged, lower the learning rate")
        self.matrix.replace(torch.from_numpy(ids), torch.from_numpy(vectors), None)

    def repair(self) -> None:
        """Nothing: there is no structure that could wear."""

    def spread(self, count: int) -> Ints:
        """Ids of ``count`` targets spread over all regions, or of all where there are fewer: neighbours beside each
        other.

        All targets are halved at the median along a random direction, the halves along another, and so on (random
        projection trees; Dasgupta and Freund, 2008). Directions are differences of two random vectors, which point
        where vectors differ.
        """
        order = self._neighbours()
        if count >= len(order):
            return order
        return order[((np.arange(count) + 0.5) * (len(order) / count)).astype(np.int64)]

    def _neighbours(self) -> Ints:
        vectors, size = self.matrix.vectors, len(self)
        halvings = min(_MOST_HALVINGS, (size - 1).bit_length())
        ends = np.random.default_rng(0).integers(0, size, (2, halvings))
        one, other = (self.rows(torch.from_numpy(rows)) for rows in ends)
        with torch.autocast(vectors.device.type, enabled=False):
            sides = vectors @ (one - other).to(vectors.dtype).T
        places = torch.arange(size, device=vectors.device)
        order = places
        for level in range(halvings):
            part = torch.empty_like(order)
            part[order] = places * 2**level // size
            order = torch.argsort(sides[:, level], stable=True)
            order = order[torch.argsort(part[order], stable=True)]
        return order.cpu().numpy()

    # Keeping

    def save(self, folder: Path) -> None:
        """Write it to a folder, whole or not at all, in place of one that is there."""
        state = {"vectors": self.matrix.vectors}
        if self.matrix.log_prior is not None:
            state["log_prior"] = self.matrix.log_prior
        if self.projection is not None:
            state["projection"] = torch.from_numpy(self.projection.matrix)
        with folder_written_whole(folder) as fresh:
            write_state(state, fresh / _FILE)

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> FlatIndex:
        """What `save` wrote, on ``device``.

        Raises:
            DataError: the file is missing or damaged.
            ValueError: it holds something else.
        """
        from hardwood.tree.arrays.projection import Projection

        recover(folder)
        state = read_state(folder / _FILE)
        parts: dict[str, Wanted] = {
            "vectors": (FLOATS, ("targets", "dimension")),
            "log_prior": ((torch.float32,), ("targets",)),
            "projection": ((torch.float32,), ("dimension", "dimensions of the model")),
        }
        wanted = {name: part for name, part in parts.items() if name in state or name == "vectors"}
        expect(state, wanted, "resume from another checkpoint, or start anew")
        projection = Projection(state["projection"].numpy()) if "projection" in state else None
        return cls(state["vectors"].to(device), state.get("log_prior"), projection)

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether `save` has written to a folder."""
        recover(folder)
        return (folder / _FILE).is_file()
