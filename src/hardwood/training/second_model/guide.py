"""A second model that judges likely negatives: its settings, its scores, and how it is loaded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hardwood import _checks
from hardwood._hub import asked_once, is_folder
from hardwood.encoding import query_vectors, similarity_of, target_vectors
from hardwood.negatives import MarginFilter
from hardwood.training._limits import DEFAULT_WITHIN, check_guide
from hardwood.training.batch.margin_watch import check_margin
from hardwood.training.checkpoint.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from hardwood.data import TextTable


@dataclass(frozen=True)
class Guide:
    """A second model that tells false negatives from hard ones.

    It judges only candidates that come near a query's positive or above it by the model in training. Of these it
    rejects those that it scores above the positive by its own scores, less a margin. That is the rule of
    sentence-transformers' ``GISTEmbedLoss`` (Solatorio, 2024, arXiv:2402.16829) and of its ``mine_hard_negatives``.
    What is rejected leaves ``Z`` for that query.

    Args:
        model: a ``SentenceTransformer`` (its prompts for queries and documents are used, and its own similarity), or a
            ``CrossEncoder`` with one label (its default prompt and its activation function are used).
        margin: what scores above the positive's score less this is rejected, in the guide's own scores; 0: what
            outranks the positive. ``None``: nothing is rejected by it.
        relative_margin: the same as a share of the positive's score; with both, the lower ceiling counts.
        within: a candidate is judged if its similarity to the query is at least the positive's less this, by the model
            in training and before the scale.
        batch_size: texts or pairs a forward pass of the guide.

    Raises:
        TypeError: ``model`` is neither of the two.
        ValueError: a setting out of range, or a ``CrossEncoder`` with several labels.
    """

    model: SentenceTransformer | CrossEncoder
    margin: float | None = 0.0
    relative_margin: float | None = None
    within: float = DEFAULT_WITHIN
    batch_size: int = 64

    def __post_init__(self) -> None:
        from sentence_transformers import CrossEncoder, SentenceTransformer

        check_guide(self.margin, self.within)
        _checks.at_least(1, self.batch_size, "the guide's batch_size")
        if isinstance(self.model, SentenceTransformer):
            check_margin(self.filter, similarity_of(self.model))
        elif isinstance(self.model, CrossEncoder):
            if self.model.num_labels != 1:
                raise ValueError(
                    f"the guide is a CrossEncoder with {self.model.num_labels} labels, and none of them is its score: "
                    "give one with a single label (num_labels=1)"
                )
        else:
            raise TypeError(
                f"the guide must be a SentenceTransformer or a CrossEncoder, got {type(self.model).__name__}: load it "
                "first, such as Guide(CrossEncoder(name)); the command line takes names"
            )

    @property
    def filter(self) -> MarginFilter:
        """The rule by which candidates are rejected."""
        return MarginFilter(self.margin, self.relative_margin)

    def scores(
        self, queries: TextTable, corpus: TextTable, query_rows: NDArray[np.int64], target_rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The guide's score of each pair, ``(n,)``; no gradient, in the guide's own precision.

        Args:
            queries: texts of queries.
            corpus: texts of targets.
            query_rows: ``(n,)`` rows of ``queries``.
            target_rows: ``(n,)`` rows of ``corpus``.

        Raises:
            ValueError: a score that is not finite; names the pair.
        """
        # The trainer's autocast is for the model that it trains.
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            try:
                found = self._scores(queries, corpus, query_rows, target_rows)
            except ValueError as error:  # of an encoding, whose words are for a model in training
                raise ValueError(f"the guide can't judge: {error}") from error
        if not np.isfinite(found).all():
            bad = int(np.argmin(np.isfinite(found)))
            raise ValueError(
                f"the guide's score of query {queries.ids([query_rows[bad]])[0]!r} and target "
                f"{corpus.ids([target_rows[bad]])[0]!r} is {found[bad]}: a guide must give numbers. Load it in "
                "float32, or choose another"
            )
        return found

    def _scores(
        self, queries: TextTable, corpus: TextTable, query_rows: NDArray[np.int64], target_rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        from sentence_transformers import CrossEncoder

        if isinstance(self.model, CrossEncoder):
            pairs = list(zip(queries.texts(query_rows), corpus.texts(target_rows), strict=True))
            return np.asarray(
                self.model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False), dtype=np.float32
            )
        distinct_queries, query_places = np.unique(query_rows, return_inverse=True)
        distinct_targets, target_places = np.unique(target_rows, return_inverse=True)
        settings: dict[str, Any] = {"batch_size": self.batch_size, "progress": False}
        of_queries = query_vectors(self.model, queries, distinct_queries, **settings)[query_places]
        of_targets = target_vectors(self.model, corpus, distinct_targets, **settings)[target_places]
        return np.einsum("nd,nd->n", of_queries, of_targets).astype(np.float32)

    def fingerprint(self) -> str:
        """A hash of what its scores depend on: weights, prompts, similarity, length of texts, activation function."""
        named = ("prompts", "default_prompt_name", "similarity_fn_name", "max_seq_length", "activation_fn")
        settings = [repr(getattr(self.model, name, None)) for name in named]
        digest = hashlib.blake2b(weights_fingerprint(self.model).encode(), digest_size=16)
        digest.update(json.dumps([type(self.model).__name__, *settings]).encode())
        return digest.hexdigest()


def as_guide(guide: Guide | SentenceTransformer | CrossEncoder | None) -> Guide | None:
    """A guide with its defaults where a model alone was given."""
    return guide if guide is None or isinstance(guide, Guide) else Guide(guide)


def settings_of(guide: Guide | None) -> dict[str, Any]:
    """A guide's settings for the model card and checkpoints. Its weights are hashed beside its judgements."""
    return {
        "guide": None if guide is None else type(guide.model).__name__,
        "guide_margin": None if guide is None else guide.margin,
        "guide_relative_margin": None if guide is None else guide.relative_margin,
        "guide_within": None if guide is None else guide.within,
    }


def load_guide(
    name: str, *, device: str | None = None, trust_remote_code: bool = False
) -> SentenceTransformer | CrossEncoder:
    """Load a guide, as what it was saved as.

    Args:
        name: a local folder, or a name on the hub.
        device: where to put it.
        trust_remote_code: run code that comes with it.

    Raises:
        ValueError: there is no such model, it can't be loaded, or it is neither of the two kinds.
    """
    from sentence_transformers import CrossEncoder, SentenceTransformer

    path = str(Path(name).expanduser()) if is_folder(name) else name
    kinds: dict[str, type[SentenceTransformer] | type[CrossEncoder]] = {
        kind.__name__: kind for kind in (SentenceTransformer, CrossEncoder)
    }
    with asked_once(name, "guide"):
        try:
            kind = _kind_of(path)
            if kind in kinds:
                return kinds[kind](path, device=device, trust_remote_code=trust_remote_code)
        except Exception as error:  # a folder can be wrong in more ways than its loader foresees
            advice = (
                "it comes with code of its own, which is not run unless you say so: read it, and if you trust it, "
                "pass trust_remote_code=True (--trust-remote-code)"
                if not trust_remote_code and "trust_remote_code" in str(error)
                else "give the folder of a SentenceTransformer or a CrossEncoder, or the name of one on the hub (needs "
                "a connection, or a copy in the cache)"
            )
            raise ValueError(f"could not load the guide {name!r}: {advice}. The loader said: {error}") from error
    raise ValueError(f"the guide {name!r} is a {kind}: give a SentenceTransformer or a CrossEncoder")


def _kind_of(path: str) -> str:
    """The class that a model was saved by; without a word of it, what its transformer was made for."""
    from sentence_transformers.util import load_file_path

    def read(file: str) -> dict[str, Any]:
        found = load_file_path(path, file)
        content = {} if found is None else json.loads(Path(found).read_bytes())
        return content if isinstance(content, dict) else {}

    if kind := read("config_sentence_transformers.json").get("model_type"):
        return str(kind)
    if load_file_path(path, "modules.json") is not None:
        return "SentenceTransformer"
    architectures = read("config.json").get("architectures") or []
    classifies = any(str(one).endswith("ForSequenceClassification") for one in architectures)
    return "CrossEncoder" if classifies else "SentenceTransformer"
