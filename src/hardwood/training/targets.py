"""The corpus and the model being trained, as sources of negatives see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hardwood.encoders import document_prompt
from hardwood.negatives import Cost

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.data import TextTable


class CorpusTargets:
    """Encodes rows of the corpus with the current weights, and books what that costs. (`hardwood.negatives.Targets`)

    Args:
        model: the model in training; its mode (train or eval) is left as it was found.
        corpus: the targets' texts.
        cost: where encodings and seconds are counted.
        normalize: whether encodings are brought to unit length (cosine similarity).
        batch_size: texts a forward pass.
        block_size: texts a block: what is in flight between the encoder and whoever keeps the encodings.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        corpus: TextTable,
        cost: Cost,
        *,
        normalize: bool,
        batch_size: int = 256,
        block_size: int = 16_384,
    ) -> None:
        self.model = model
        self.corpus = corpus
        self.num_targets = len(corpus)
        self.autocast_dtype: torch.dtype | None = None
        self._cost = cost
        self._normalize = normalize
        self._batch_size = batch_size
        self._block_size = block_size

    @property
    def dimension(self) -> int:
        """Length of an encoding."""
        return int(self.model.get_embedding_dimension())

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return torch.device(self.model.device)

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `hardwood.negatives.Targets.encode`.

        Raises:
            ValueError: an encoding that is not finite; names the target.
        """
        all_rows = np.arange(self.num_targets) if rows is None else rows.cpu().numpy()
        for begin in range(0, len(all_rows), self._block_size):
            block = all_rows[begin : begin + self._block_size]
            with self._cost.timed("encode"):
                vectors = self._encode_block(block)
            self._cost.targets_reencoded += len(block)
            yield torch.from_numpy(np.ascontiguousarray(block)), vectors

    def _encode_block(self, rows: np.ndarray) -> Tensor:
        was_training = self.model.training
        device_type = self.device.type
        try:
            with torch.autocast(device_type, self.autocast_dtype, enabled=self.autocast_dtype is not None):
                vectors = self.model.encode_document(
                    self.corpus.texts(rows),
                    prompt=document_prompt(self.model),
                    batch_size=self._batch_size,
                    convert_to_tensor=True,
                    show_progress_bar=False,
                ).float()
        finally:
            self.model.train(was_training)  # `encode` leaves it in eval mode
        broken = ~torch.isfinite(vectors).all(dim=1)
        if broken.any():
            row = int(rows[int(broken.nonzero()[0])])
            raise ValueError(
                f"the encoder gives NaN or infinite numbers for target {self.corpus.ids([row])[0]!r}: the model has "
                "diverged (lower the learning rate, or train in float32 or bfloat16 instead of float16)"
            )
        return torch.nn.functional.normalize(vectors, dim=1) if self._normalize else vectors
