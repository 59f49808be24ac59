"""Encoding with gradient what a training step needs: queries, positives, negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hardwood.encoding import Similarity
from hardwood.training.batch.features import pieces_of, to_device
from hardwood.training.corpus.targets import CorpusTargets
from hardwood.training.corpus.tokens import TargetFeatures
from hardwood.training.estimate.one_batch import encoder_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Features = dict[str, Any]

_OVERHEAD = 64
_ACCELERATOR_OVERHEAD = 4096
"""What a forward pass costs besides its texts, in tokens: launching a BERT's kernels takes an accelerator's host some
15 ms, in which it encodes as many."""


class EncodingModule(nn.Module):
    """A loss's way to its encoder: batches in pieces of like length, each encoded with gradient.

    ``model`` is a child by this name, so that the trainer can put its wrapped model in its place.
    """

    model: SentenceTransformer
    similarity: Similarity
    targets: CorpusTargets
    _target_features: TargetFeatures

    def _embed_targets(self, rows: Tensor, like: Tensor) -> Tensor:
        """Encodings of corpus rows with gradient, in the order of ``rows``."""
        if not len(rows):
            return like[:0]
        return self._embed_features(self._target_features.of(rows.cpu().numpy()), len(rows), like.device)

    def _embed_features(self, features: Features, batch_size: int, device: torch.device) -> Tensor:
        """Encodings ``(batch_size, d)`` with gradient, on ``device``, made piece by piece."""
        pieces = self._pieces(features, batch_size, device)
        encodings = torch.cat([self._embed_piece(to_device(piece, device)) for _, piece in pieces])
        if len(pieces) == 1:
            return encodings
        return encodings[torch.argsort(torch.cat([rows for rows, _ in pieces])).to(device)]

    def _pieces(self, features: Features, batch_size: int, device: torch.device) -> list[tuple[Tensor, Features]]:
        """What each forward pass encodes; see `pieces_of`."""
        return pieces_of(features, batch_size, overhead=_OVERHEAD if device.type == "cpu" else _ACCELERATOR_OVERHEAD)

    def _embed_piece(self, features: Features) -> Tensor:
        return self._embed(features)

    def _embed(self, features: Features) -> Tensor:
        # a copy: modules write into what they are given
        embeddings = encoder_of(self.model)(dict(features))["sentence_embedding"]
        # As `encode` does it: cut what the model is set to cut, and normalise in float32.
        embeddings = embeddings[:, : self.targets.model.truncate_dim].float()
        return nn.functional.normalize(embeddings, dim=1) if self.similarity == "cosine" else embeddings
