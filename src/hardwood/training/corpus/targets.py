"""The corpus and the model being trained, as sources of negatives see them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardwood.encoding import Similarity, encode_targets
from hardwood.negatives import Cost
from hardwood.training.checkpoint.fingerprint import encoder_fingerprints
from hardwood.training.corpus.tokens import TargetFeatures

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.data import TextTable
    from hardwood.training.checkpoint.encoding_spool import EncodingSpool

_Dropout = torch.nn.modules.dropout._DropoutNd
_WORTH_A_BAR = 100_000
"""Texts from which an encoding shows its progress."""
_TRIED_TEXTS = 64
"""Of the corpus, by whose tokens one tokenizer is known from another."""


class CorpusTargets:
    """Encodes rows of the corpus with the current weights, and books what that costs. (`hardwood.negatives.Targets`)

    Args:
        model: the model in training; its mode (train or eval) is left as it was found.
        corpus: the targets' texts.
        cost: where encodings and seconds are counted.
        similarity: ``"cosine"`` brings encodings to unit length, ``"dot"`` leaves them as they are.
        features: what the model takes for rows of the corpus, kept from earlier where that pays; ``None``: the model's
            own prompt and tokenizer, each time.
        batch_size: texts a forward pass.
        block_size: texts a block: what is in flight between the encoder and what keeps the encodings.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        corpus: TextTable,
        cost: Cost,
        *,
        similarity: Similarity,
        features: TargetFeatures | None = None,
        batch_size: int = 256,
        block_size: int = 16_384,
    ) -> None:
        self.model = model
        self.corpus = corpus
        self.num_targets = len(corpus)
        self.autocast_dtype: torch.dtype | None = None  # as the trainer trains; set by `NegativesCallback`
        self.log_prior: NDArray[np.float32] | None = None  # see `hardwood.negatives.Targets`
        self.progress = True  # bars for encodings that take a while, on a terminal
        self.spool: EncodingSpool | None = None  # keeps encodings of whole shards on disk; set by `NegativesCallback`
        self._cost = cost
        self._similarity: Similarity = similarity
        self._features = features
        self._batch_size = batch_size
        self._block_size = block_size
        self._corpus_fingerprint: str | None = None

    @property
    def dimension(self) -> int:
        """Length of an encoding."""
        return int(self.model.get_embedding_dimension())

    @property
    def has_dropout(self) -> bool:
        """See `hardwood.negatives.Targets.has_dropout`; LoRA's counts from the first step on."""
        return any(getattr(module, "p", 0) > 0 for module in self.model.modules() if isinstance(module, _Dropout))

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return torch.device(self.model.device)

    def encode(self, rows: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """See `hardwood.negatives.Targets.encode`.

        Raises:
            ValueError: an encoding that is not finite; names the target.
        """
        wanted = np.arange(self.num_targets) if rows is None else rows.cpu().numpy()
        blocks = self._encoded(wanted)
        if self.spool is not None and self.spool.takes(wanted, self.num_targets):
            of = self._described()
            blocks = self.spool.completed(
                wanted, self.num_targets, self._block_size, of, self._encoded, self._cost.add_reused
            )
        while True:
            # The generator works when it is asked for the next block: that is what there is to time.
            with self._cost.timed("encode"), self._autocast():
                block = next(blocks, None)
            if block is None:
                return
            yield torch.from_numpy(block[0]), torch.from_numpy(block[1])

    def _encoded(self, wanted: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        kept = self._features is not None and self._features.are_kept()
        blocks = encode_targets(
            self.model,
            self.corpus,
            wanted,
            batch_size=self._batch_size,
            block=self._block_size,
            similarity=self._similarity,
            features=self._features.of if self._features is not None and kept else None,
            prompt=None if self._features is None else self._features.prompt,
            progress=None if self.progress and len(wanted) > _WORTH_A_BAR else False,
        )
        for block in blocks:
            self._cost.targets_reencoded += len(block[0])
            yield block

    def _described(self) -> dict[str, Any]:
        """What encodings are a function of, up to rounding, by words."""
        if self._corpus_fingerprint is None:
            self._corpus_fingerprint = self.corpus.fingerprint()
        first = np.arange(min(_TRIED_TEXTS, self.num_targets))
        tokens = {} if self._features is None else self._features.of(first)
        return {
            "texts": self._corpus_fingerprint,
            **encoder_fingerprints(self.model, tokens),
            "prompt": self.model.prompts if self._features is None else self._features.prompt,
            "similarity": self._similarity,
            "precision": str(self.autocast_dtype or torch.float32).removeprefix("torch."),
            "dimension": self.dimension,
        }

    def _autocast(self) -> torch.autocast:
        # No weight cache: casts made under inference mode would be found by the next training forward pass.
        half = self.autocast_dtype
        return torch.autocast(self.device.type, half, enabled=half is not None, cache_enabled=False)
