"""Encoding many texts with a sentence-transformers model in bounded memory, block by block.

What it is for: turning rows of a text table (or a list of texts) into vectors, with the model's own
prompts and Router tasks, for evaluation, mining and every source of negatives that re-encodes. What it knows:
models and texts. What it must not know: judgements, indexes, losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hardwood import _checks
from hardwood._progress import progress_bar
from hardwood.encoders import is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "encode_queries",
    "encode_targets",
    "query_vectors",
    "similarity_of",
    "target_vectors",
]

Similarity = Literal["cosine", "dot"]
Kind = Literal["query", "target"]

BATCH_SIZE, STATIC_BATCH_SIZE = 128, 2048
"""Texts a forward pass, by default. Static embeddings pad nothing and keep nothing: theirs are larger, to the same
encodings."""
BLOCK = 16_384  # texts in memory at a time: 50 MB of 768-d vectors, and long enough to sort by length in
_DTYPES = ("float32", "float16")
Features = Callable[[NDArray[np.int64]], "dict[str, Any]"]


@runtime_checkable
class Texts(Protocol):
    """What encoding needs of a text table; ``hardwood.data.TextTable`` has it."""

    def __len__(self) -> int: ...

    def ids(self, rows: ArrayLike | None = None) -> list[str]: ...

    def texts(self, rows: ArrayLike | None = None) -> list[str]: ...


def check_encoder(model: Any) -> None:
    """``TypeError`` for what is no dense encoder: it would fail somewhere else, or score otherwise than here."""
    from sentence_transformers import SentenceTransformer

    if not isinstance(model, SentenceTransformer):
        raise TypeError(
            f"the model must be a SentenceTransformer, which gives each text one dense vector, got a "
            f"{type(model).__name__}: load it as SentenceTransformer(name), or choose another model"
        )


def similarity_of(model: SentenceTransformer, similarity: str | None = None) -> Similarity:
    """The similarity by which a model's vectors are compared.

    Args:
        model: its ``similarity_fn_name`` counts, "cosine" where it has none.
        similarity: overrides the model's.

    Raises:
        ValueError: for anything but "cosine" and "dot", the two that are inner products.
        TypeError: for a model that is no ``SentenceTransformer``, such as a ``SparseEncoder`` or ``CrossEncoder``.
    """
    check_encoder(model)
    name = str(similarity or getattr(model, "similarity_fn_name", None) or "cosine")
    if name == "cosine":
        return "cosine"
    if name == "dot":
        return "dot"
    raise ValueError(
        f"the similarity {name!r} is no inner product; Hardwood knows 'cosine' and 'dot': pass one of them "
        f"as similarity, or set model.similarity_fn_name"
    )


def encode_targets(
    model: SentenceTransformer,
    texts: Texts | Sequence[str],
    rows: ArrayLike | None = None,
    *,
    batch_size: int | None = None,
    block: int = BLOCK,
    dtype: str = "float32",
    similarity: str | None = None,
    progress: bool | None = None,
    features: Features | None = None,
    prompt: str | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Encode targets by ``model.encode_document``, a block at a time.

    The model's prompt "document" and its Router's task "document" are used. No gradient is kept, and each
    module's training mode is put back after every block, so that the model may be trained between two blocks.

    Args:
        model: any ``SentenceTransformer``.
        texts: a ``TextTable``, or texts themselves.
        rows: ``(n,)`` integers, the rows to encode, in this order; all when None.
        batch_size: texts in one forward pass; 128 when None, and 2,048 for static embeddings.
        block: texts whose vectors are in memory at a time; sorted by length within, so larger pads less.
        dtype: "float32" or "float16", of the vectors given out; both are computed and normalised in float32.
        similarity: "cosine" or "dot"; the model's own when None. With "cosine" the vectors have length 1
            (those of length 0 stay 0).
        progress: whether to show a bar with rate and remaining time on stderr; None for only on a terminal.
        features: gives what the model takes for rows ``(b,)``, instead of the model's own prompt and tokenizer; a
            block is then one forward pass.
        prompt: put before each text in place of the model's own prompt; ``""``: none; ``None``: the model's.

    Yields:
        ``(rows, vectors)``: int64 ``(b,)`` and ``dtype`` ``(b, d)``, with ``b <= block``.

    Raises:
        ValueError: for a setting out of range, a similarity that isn't an inner product, or a vector that
            isn't finite, naming the text's id.
        IndexError: for a row that the texts don't have.
    """
    return _blocks(
        model,
        "target",
        texts,
        rows,
        batch_size=batch_size,
        block=block,
        dtype=dtype,
        similarity=similarity,
        progress=progress,
        features=features,
        prompt=prompt,
    )


def encode_queries(
    model: SentenceTransformer,
    texts: Texts | Sequence[str],
    rows: ArrayLike | None = None,
    *,
    batch_size: int | None = None,
    block: int = BLOCK,
    dtype: str = "float32",
    similarity: str | None = None,
    progress: bool | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """As ``encode_targets``, by ``model.encode_query``: the prompt "query" and the Router's task "query"."""
    return _blocks(
        model,
        "query",
        texts,
        rows,
        batch_size=batch_size,
        block=block,
        dtype=dtype,
        similarity=similarity,
        progress=progress,
    )


def target_vectors(
    model: SentenceTransformer, texts: Texts | Sequence[str], rows: ArrayLike | None = None, **settings: Any
) -> NDArray[Any]:
    """All that ``encode_targets`` gives in one array ``(n, d)``; the settings are the same."""
    return _gather(encode_targets(model, texts, rows, **settings), _count(texts, rows), model)


def query_vectors(
    model: SentenceTransformer, texts: Texts | Sequence[str], rows: ArrayLike | None = None, **settings: Any
) -> NDArray[Any]:
    """All that ``encode_queries`` gives in one array ``(n, d)``; the settings are the same."""
    return _gather(encode_queries(model, texts, rows, **settings), _count(texts, rows), model)


@contextmanager
def training_mode_kept(model: Any) -> Iterator[None]:
    """Put back every module's own ``training`` flag afterwards (a frozen part may differ from the rest)."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def _blocks(
    model: Any,
    kind: Kind,
    texts: Texts | Sequence[str],
    rows: ArrayLike | None,
    *,
    batch_size: int | None,
    block: int,
    dtype: str,
    similarity: str | None,
    progress: bool | None,
    features: Features | None = None,
    prompt: str | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """Check everything when called, not when the first block is asked for."""
    for name, value in (("batch_size", batch_size), ("block", block)):
        if value is not None:
            _checks.at_least(1, value, name)
    _checks.one_of(_DTYPES, dtype, "dtype")
    if isinstance(texts, str):
        raise TypeError("texts must be a table or a list of texts, not one string; put it in a list")
    unit = similarity_of(model, similarity) == "cosine"
    wanted = None if rows is None else _checked_rows(rows, len(texts))
    if batch_size is None:
        batch_size = STATIC_BATCH_SIZE if is_static(model) else BATCH_SIZE
    return _generate(
        model,
        kind,
        texts,
        wanted,
        batch_size=batch_size,
        block=block,
        dtype=dtype,
        unit=unit,
        progress=progress,
        features=features,
        prompt=prompt,
    )


def _generate(
    model: Any,
    kind: Kind,
    texts: Texts | Sequence[str],
    wanted: NDArray[np.int64] | None,
    *,
    batch_size: int,
    block: int,
    dtype: str,
    unit: bool,
    progress: bool | None,
    features: Features | None,
    prompt: str | None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    encode = model.encode_query if kind == "query" else model.encode_document
    total = len(texts) if wanted is None else len(wanted)
    label = "queries" if kind == "query" else "targets"
    with progress_bar(f"Encoding {label}", total, progress) as advance:
        for start in range(0, total, block):
            stop = min(start + block, total)
            rows = np.arange(start, stop, dtype=np.int64) if wanted is None else wanted[start:stop]
            with training_mode_kept(model):
                if features is None:
                    batch = texts.texts(rows) if isinstance(texts, Texts) else [texts[row] for row in rows.tolist()]
                    options: dict[str, Any] = {} if prompt is None else {"prompt": prompt}
                    options |= {"batch_size": batch_size, "show_progress_bar": False, "convert_to_numpy": True}
                    encoded = encode(batch, **options)
                else:
                    encoded = _forward(model, features(rows))
            vectors = np.asarray(encoded, dtype=np.float32)
            if unit:
                # Here and not by the model, whose own precision may be too coarse for a length of 1.
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = vectors / np.maximum(lengths, 1e-12)
            vectors = _narrowed(vectors, dtype)
            _check_finite(vectors, rows, texts, kind)
            yield rows, vectors
            advance(len(rows))


def _forward(model: Any, features: dict[str, Any]) -> NDArray[np.float32]:
    """What ``model.encode`` gives for texts with these features."""
    import torch

    model.eval()
    moved = {
        key: value.to(model.device) if isinstance(value, torch.Tensor) else value for key, value in features.items()
    }
    with torch.inference_mode():
        embeddings = model(moved)["sentence_embedding"]
        out: NDArray[np.float32] = embeddings[:, : model.truncate_dim].float().cpu().numpy()
    return out


def _narrowed(vectors: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what doesn't fit becomes inf and is reported with the text's id
        return vectors.astype(dtype, copy=False)


def _check_finite(vectors: NDArray[Any], rows: NDArray[np.int64], texts: Texts | Sequence[str], kind: Kind) -> None:
    if vectors.ndim != 2:
        raise ValueError(f"the model gives encodings of shape {vectors.shape}; one vector a text is needed")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        row = int(rows[bad[0]])
        name = repr(texts.ids([row])[0]) if isinstance(texts, Texts) else f"number {row}"
        raise ValueError(
            f"the encoding of {kind} {name} (row {row}) is not finite, as are {bad.size - 1:,} more of its "
            f"block of {len(rows):,}: the model has diverged, or its precision ({vectors.dtype}) is too small"
        )


def _checked_rows(rows: ArrayLike, size: int) -> NDArray[np.int64]:
    array = np.asarray(rows)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise TypeError(f"rows must be a flat list of integers, got {array.dtype} of shape {array.shape}")
    wanted = array.astype(np.int64)
    if wanted.size and (wanted.min() < 0 or wanted.max() >= size):
        outside = wanted[(wanted < 0) | (wanted >= size)][0]
        raise IndexError(f"row {outside} is outside of {size:,} texts")
    return wanted


def _count(texts: Texts | Sequence[str], rows: ArrayLike | None) -> int:
    return len(texts) if rows is None else len(np.asarray(rows))


def _gather(blocks: Iterator[tuple[Any, NDArray[Any]]], count: int, model: Any) -> NDArray[Any]:
    out: NDArray[Any] | None = None
    start = 0
    for _, vectors in blocks:
        if out is None:  # the first block has the width; filling avoids a second copy of everything
            out = np.empty((count, vectors.shape[1]), dtype=vectors.dtype)
        out[start : start + len(vectors)] = vectors
        start += len(vectors)
    return np.zeros((0, model.get_embedding_dimension() or 0), dtype=np.float32) if out is None else out
