"""The index that a dynamic run begins with: of the model's encodings, or read from a folder."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hardwood.negatives.cost import Cost
from hardwood.negatives.dynamic.flat_index import FlatIndex
from hardwood.negatives.dynamic.index_form import IndexForm, VectorIndex
from hardwood.negatives.dynamic.reduced import ReducedTargets, reduced
from hardwood.negatives.dynamic.true_encodings import TRUE_DTYPES
from hardwood.negatives.records import Targets, encoded_rows, log_prior_of

if TYPE_CHECKING:
    from hardwood.tree import TargetIndex
    from hardwood.tree.arrays.projection import Projection

_LOG = logging.getLogger("hardwood")

_LOOKED_AT = 64
"""Targets that are encoded to see whether a saved tree is of this model."""
_OFF_UNIT = 0.02
"""How far from 1 a length may be that rounding to 16 bits has touched."""
_LEAST_COSINE, _SURELY_THE_SAME, _LEAST_GAP = 0.5, 0.9, 0.05
"""A tree may be of the model some training ago. Many models give any two texts a cosine far above 0."""


def encoded_index(targets: Targets | ReducedTargets, cost: Cost, form: IndexForm) -> tuple[VectorIndex, Tensor]:
    """Encode the corpus and make the index of it.

    Args:
        targets: the corpus; whose encodings are reduced, if fewer dimensions are to be kept.
        cost: books the time of the index (that of encoding is booked by ``targets``).
        form: how vectors are kept.

    Returns:
        The index, and the encodings ``(n, d)``: in bfloat16 where both keep that, else in float32.
    """
    shape, projection = (targets.num_targets, targets.dimension), None
    if isinstance(targets, ReducedTargets):
        projection = targets.projection
    if _is_flat(targets, form):
        encodings = torch.empty(shape, dtype=TRUE_DTYPES[form.true_dtype])
        flat = _flat(targets, form, shape, projection)
        for rows, vectors in targets.encode():
            encodings[rows] = vectors.to(encodings.dtype)
            with cost.timed("index"):
                flat.update(vectors.float().numpy(), rows.numpy())
        return flat, encodings
    from hardwood.tree import TargetIndex

    # What both round to is rounded at once: a float32 copy of all would be the peak of the host's memory.
    half = (form.dtype, form.true_dtype) == ("bfloat16", "bfloat16")
    encodings = torch.empty(shape, dtype=torch.bfloat16 if half else torch.float32)
    for rows, vectors in targets.encode():
        encodings[rows] = vectors.to(encodings.dtype)
    with cost.timed("index"):
        index = TargetIndex.build(
            encodings if half else encodings.numpy(),
            log_prior=targets.log_prior,
            dimension=projection,
            leaf_size=form.leaf_size,
            dtype=form.dtype,
            progress=False,
        )
        return index, encodings


def loaded_index(folder: str, targets: Targets, cost: Cost, form: IndexForm) -> tuple[VectorIndex, Tensor]:
    """Read a tree that was saved, whose vectors are taken for the current model's encodings.

    Args:
        folder: what `hardwood.tree.TargetIndex.save` wrote; ids are rows of the corpus.
        targets: the corpus. If their prior is not the tree's, a new tree is built from its vectors.
        cost: books the time.
        form: how vectors are kept. Flat ones, and such a new tree, are made from the tree's vectors.

    Returns:
        The index, and its vectors in the order of the corpus, ``(n, d)`` float32; reduced, where it keeps fewer
        dimensions.

    Raises:
        DataError: there is no index in the folder, or a damaged one.
        ValueError: it is not of this corpus and model, or its metric is not the model's similarity; seen by the
            encodings of a few targets.
    """
    from hardwood.tree import TargetIndex

    with cost.timed("index"):
        index = _saved_tree(folder, targets, form.dimension)
    _check_is_of_model(index, folder, targets)
    with cost.timed("index"):
        encodings = index.vectors(np.arange(len(index)))
        if _is_flat(targets, form):
            flat = _flat(targets, form, encodings.shape, index.projection)
            flat.update(encodings, np.arange(len(index)))
            return flat, torch.from_numpy(encodings)
        if not has_prior_of(index, targets):
            warnings.warn(
                f"the index in {folder} has another prior over targets than this run, so a tree is built anew from its "
                "vectors; save one with TargetIndex.build(log_prior=) to save that time",
                stacklevel=2,
            )
            options: dict[str, Any] = {
                "dimension": index.projection, "leaf_size": form.leaf_size, "dtype": index.dtype,
                "metric": index.metric,
            }  # fmt: skip
            index = TargetIndex.build(encodings, log_prior=targets.log_prior, progress=False, **options)
        return index, torch.from_numpy(encodings)


def saved_index(folder: Path, targets: Targets, form: IndexForm) -> VectorIndex:
    """The index of a checkpoint, read and verified; with ``"auto"`` of whichever kind it is.

    Args:
        folder: what the `save` of an index wrote; ids are rows of the corpus.
        targets: the corpus.
        form: how vectors are to be kept.

    Raises:
        DataError: there is no index in the folder, or a damaged one.
        ValueError: it is of the other kind, or not of this corpus, model and prior.
    """
    found = "flat" if FlatIndex.is_in(folder) else "tree"
    if form.kind not in (found, "auto"):
        raise ValueError(
            f"the checkpoint's index is of the kind {found!r}, and index_kind is {form.kind!r}: resume with "
            f"index_kind={found!r}, or start anew"
        )
    index: VectorIndex
    if found == "tree":
        index = _saved_tree(folder, targets, form.dimension)
    else:
        index = FlatIndex.load(folder, form.place(targets))
        _check_fits(index, folder, targets, form.dimension)
    if not has_prior_of(index, targets):
        raise ValueError(
            "the checkpoint's index was made with another prior over targets: resume with the unasked_prior and the "
            "training pairs that it was made with"
        )
    return index


def has_prior_of(index: VectorIndex, targets: Targets) -> bool:
    """Whether an index of this corpus weighs targets by the prior that they have now."""
    if targets.log_prior is None or not index.has_prior:
        return targets.log_prior is None and not index.has_prior
    # bfloat16 keeps eight bits.
    return bool(np.allclose(index.log_prior(np.arange(len(index))), targets.log_prior, rtol=2**-8, atol=1e-6))


def _is_flat(targets: Targets, form: IndexForm) -> bool:
    """Whether the index is to be flat; says so, where that was not the user's choice."""
    kind = form.kind_for(targets)
    if form.kind == "auto":
        words = "%s targets, model on %s: the dynamic source draws from a %s index (index_kind='auto')"
        _LOG.info(words, f"{targets.num_targets:,}", targets.device.type, kind)
    return kind == "flat"


def _flat(targets: Targets, form: IndexForm, shape: tuple[int, ...], projection: Projection | None) -> FlatIndex:
    """A flat index of this corpus, whose vectors are still to be written."""
    vectors = torch.empty(shape, dtype=TRUE_DTYPES[form.dtype], device=form.place(targets))
    return FlatIndex(vectors, log_prior_of(targets), projection)


def _saved_tree(folder: str | Path, targets: Targets, dimension: int | None) -> TargetIndex:
    """A tree of this corpus, read and verified; errors as of `saved_index`."""
    from hardwood.tree import TargetIndex

    index = TargetIndex.load(folder, mmap=False, verify=True)
    _check_fits(index, folder, targets, dimension)
    if not np.array_equal(index.ids, np.arange(len(index))):
        raise ValueError(
            f"the ids in {folder} are not the rows 0 to {len(index) - 1} of the corpus: build it without ids, with "
            "the vectors in the corpus's order"
        )
    return index


def _check_is_of_model(index: TargetIndex, folder: str, targets: Targets) -> None:
    """``ValueError`` for a tree whose vectors can't be the current model's encodings, by some that are made now."""
    rows = np.unique(np.linspace(0, len(index) - 1, _LOOKED_AT).astype(np.int64))
    now, there = torch.from_numpy(encoded_rows(targets, rows)), torch.from_numpy(index.vectors(rows))
    lengths, kept = now.norm(dim=1), there.norm(dim=1)
    is_unit = bool(((lengths - 1).abs() < _OFF_UNIT).all())
    if index.metric == "cosine" and not is_unit:
        raise ValueError(
            f"the index in {folder} was built with metric='cosine', but this model compares by dot products, and its "
            f"encodings have lengths from {float(lengths.min()):.3g} to {float(lengths.max()):.3g}: build it with "
            "metric='dot'"
        )
    if is_unit and bool((kept > 1 + _OFF_UNIT).any()):
        raise ValueError(
            f"the index in {folder} has vectors of lengths up to {float(kept.max()):.3g}, but this model compares by "
            "cosine, and its encodings have length 1: build the index with metric='cosine'"
        )
    cosines = normalize(there, dim=1) @ normalize(reduced(now, index.projection), dim=1).T
    own, others = float(cosines.diagonal().mean()), float(cosines.mean())
    if own < _LEAST_COSINE or (own < _SURELY_THE_SAME and own - others < _LEAST_GAP):
        raise ValueError(
            f"the index in {folder} is of another model, or of another order of the corpus: of {len(rows)} targets, "
            f"its vectors and this model's encodings have a mean cosine of {own:.2f} (of different targets: "
            f"{others:.2f}). Build it with this model, or leave index out"
        )


def _check_fits(index: VectorIndex, folder: str | Path, targets: Targets, dimension: int | None) -> None:
    """``ValueError`` for an index that is not of this corpus and model, or keeps another number of dimensions than
    ``dimension`` (``None``: any)."""
    wanted = (targets.num_targets, targets.dimension)
    full = index.dimension if index.projection is None else index.projection.full_dimension
    if (len(index), full) != wanted:
        raise ValueError(
            f"the index in {folder} has {len(index):,} targets in {full} dimensions, but this corpus "
            f"and model need {wanted[0]:,} in {wanted[1]}: build it from this corpus with this model"
        )
    if dimension not in (None, index.dimension):
        raise ValueError(
            f"the index in {folder} keeps {index.dimension} of {full} dimensions, and index_dimension is {dimension}: "
            f"build it with TargetIndex.build(dimension={dimension}), or leave index_dimension out"
        )
