"""The loss in mini-batches: many negatives in little memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardwood import _checks
from hardwood.training._embedding import Features
from hardwood.training.batch.features import pieces_of
from hardwood.training.softmax_loss import CorpusSoftmaxLoss


class CachedCorpusSoftmaxLoss(CorpusSoftmaxLoss):
    """`CorpusSoftmaxLoss` for many negatives in little memory: the same value and gradients, in mini-batches.

    Activations of one mini-batch are alive at a time; all others are recomputed in the backward pass, with their
    dropout replayed. This is what GradCache does (Gao, Zhang, Han and Callan, 2021, arXiv:2101.06983), at the same
    cost of one further forward pass; PyTorch's activation checkpointing does the bookkeeping.

    Args:
        mini_batch_size: texts a forward pass. The largest that fits is the fastest.
        Others: as in `CorpusSoftmaxLoss`.
    """

    def __init__(self, *args: Any, mini_batch_size: int = 64, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _checks.at_least(1, mini_batch_size, "mini_batch_size")
        self.mini_batch_size = mini_batch_size

    def get_config_dict(self) -> dict[str, Any]:
        """As in `CorpusSoftmaxLoss`, and how a step is cut."""
        return {**super().get_config_dict(), "mini_batch_size": self.mini_batch_size}

    def _embed_targets(self, rows: Tensor, like: Tensor) -> Tensor:
        if len(rows) <= self.mini_batch_size:
            return super()._embed_targets(rows, like)
        # Cut before they are tokenised: what a model makes of them (one flat sequence, say) can't always be.
        lengths = [len(text) for text in self.targets.corpus.texts(rows.cpu().numpy())]
        order = torch.from_numpy(np.argsort(lengths, kind="stable")).to(rows.device)
        embed = super()._embed_targets
        pieces = [embed(piece, like) for piece in rows[order].split(self.mini_batch_size)]
        return torch.cat(pieces)[torch.argsort(order)]

    def _pieces(self, features: Features, batch_size: int, device: torch.device) -> list[tuple[Tensor, Features]]:
        return pieces_of(features, batch_size, self.mini_batch_size)

    def _embed_piece(self, features: Features) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        if not torch.is_grad_enabled():
            return self._embed(features)
        return checkpoint(self._embed, features, use_reentrant=False)
