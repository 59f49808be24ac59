"""Features of targets, tokenised once: a run draws the same hard negatives, and encodes the same targets, again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from hardwood.encoding import Texts

KEPT_BYTES = 256 * 2**20
"""Token ids kept at most (4 bytes each); beyond, all are forgotten and the next are kept."""


class TargetFeatures:
    """What the model is given for rows of the corpus.

    Token ids are kept on the host for encoders that take bags of them (static embeddings), where tokenising costs
    several times what encoding does. Other encoders pad each batch in their own way and are asked each time: beside a
    transformer's forward pass tokenising is nothing.

    Args:
        model: the encoder.
        corpus: the targets' texts.
        prompt: put before each text.
        task: the Router's task, if the model has one.
        kept_bytes: see `KEPT_BYTES`. Besides, 12 bytes a target.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        corpus: Texts,
        prompt: str | None,
        task: str | None,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._model, self._corpus, self._prompt = model, corpus, prompt
        self._task: dict[str, Any] = {} if task is None else {"task": task}
        self._kept_bytes = kept_bytes
        self._takes_bags = True  # until a batch shows otherwise
        self._others: dict[str, Any] = {}  # what stands in a batch beside its tensors
        self._used = 0  # of the places in `_ids`
        self._ids = np.zeros(0, dtype=np.int32)
        self._starts = np.zeros(len(corpus), dtype=np.int64)
        self._lengths = np.full(len(corpus), -1, dtype=np.int32)

    def of(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """Features of the targets ``rows`` ``(m,)``, in this order, on the CPU."""
        if not self._takes_bags:
            return self._tokenised(rows)
        if 4 * self._used > self._kept_bytes:
            self._forget()
        new = np.unique(rows[self._lengths[rows] < 0])
        if len(new):
            features = self._tokenised(new)
            if {key for key, value in features.items() if isinstance(value, Tensor)} != {"input_ids", "offsets"}:
                self._takes_bags = False
                return self._tokenised(rows)
            self._keep(new, features)
        return self._gathered(rows)

    @property
    def prompt(self) -> str:
        """What is put before each text; ``""``: nothing."""
        return self._prompt or ""

    def use_prompt(self, prompt: str) -> None:
        """Put ``prompt`` before each text from now on."""
        if prompt != self.prompt:
            self._prompt = prompt
            self._forget()

    def without_prompt(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """As `of`, the texts alone."""
        return {**self._model.preprocess(self._corpus.texts(rows), prompt=None, **self._task), **self._task}

    def decode(self, ids: list[int]) -> str | None:
        """The text of token ids, for messages; ``None`` if the model's tokenizer can't tell."""
        try:
            return str(self._model.tokenizer.decode(ids, skip_special_tokens=True))
        except Exception:  # tokenizers are of many kinds, and this is for a message
            return None

    def are_kept(self) -> bool:
        """Whether this encoder takes bags of token ids, which are kept."""
        if self._takes_bags and not self._used and len(self._corpus):
            self.of(np.zeros(1, dtype=np.int64))
        return self._takes_bags

    def _tokenised(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        texts = self._corpus.texts(rows)
        return {**self._model.preprocess(texts, prompt=self._prompt, **self._task), **self._task}

    def _keep(self, rows: NDArray[np.int64], features: dict[str, Any]) -> None:
        ids, offsets = features["input_ids"].numpy(), features["offsets"].numpy()
        if self._used + len(ids) > len(self._ids):
            grown = np.empty(max(2 * len(self._ids), self._used + len(ids)), dtype=np.int32)
            grown[: self._used] = self._ids[: self._used]
            self._ids = grown
        self._ids[self._used : self._used + len(ids)] = ids
        self._starts[rows] = self._used + offsets
        self._lengths[rows] = np.diff(offsets, append=len(ids))
        self._used += len(ids)
        self._others = {key: value for key, value in features.items() if not isinstance(value, Tensor)}

    def _gathered(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        lengths = self._lengths[rows].astype(np.int64)
        offsets = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(self._starts[rows] - offsets, lengths)
        ids = torch.from_numpy(self._ids[places].astype(np.int64))
        return {"input_ids": ids, "offsets": torch.from_numpy(offsets), **self._others}

    def _forget(self) -> None:
        self._lengths.fill(-1)
        self._ids, self._used = np.zeros(0, dtype=np.int32), 0
