"""The tree that a dynamic run begins with: of the model's encodings, or read from a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hardwood.negatives.cost import Cost
from hardwood.negatives.dynamic.reduced import ReducedTargets
from hardwood.negatives.records import Targets

if TYPE_CHECKING:
    from hardwood.tree import TargetIndex


def encoded_index(
    targets: Targets | ReducedTargets, cost: Cost, *, leaf_size: int, dtypes: tuple[str, str]
) -> tuple[TargetIndex, Tensor]:
    """Encode the corpus and build the tree.

    Args:
        targets: the corpus; whose encodings are reduced, if the tree is to keep fewer dimensions.
        cost: books the time of the tree (that of encoding is booked by ``targets``).
        leaf_size: see `hardwood.tree.TargetIndex.build`.
        dtypes: of the tree, and in which the encodings will be kept.

    Returns:
        The tree, and the encodings ``(n, d)``: in bfloat16 where both keep that, else in float32.
    """
    from hardwood.tree import TargetIndex

    # What both round to is rounded at once: a float32 copy of all would be the peak of the host's memory.
    half = dtypes == ("bfloat16", "bfloat16")
    shape = targets.num_targets, targets.dimension
    encodings = torch.empty(shape, dtype=torch.bfloat16 if half else torch.float32)
    for rows, vectors in targets.encode():
        encodings[rows] = vectors.to(encodings.dtype)
    with cost.timed("index"):
        index = TargetIndex.build(
            encodings if half else encodings.numpy(),
            log_prior=targets.log_prior,
            dimension=targets.projection if isinstance(targets, ReducedTargets) else None,
            leaf_size=leaf_size,
            dtype=dtypes[0],
            progress=False,
        )
        return index, encodings


def loaded_index(
    folder: str, targets: Targets, cost: Cost, *, dimension: int | None, leaf_size: int
) -> tuple[TargetIndex, Tensor]:
    """Read a tree that was saved, whose vectors are taken for the current model's encodings.

    Args:
        folder: what `hardwood.tree.TargetIndex.save` wrote; ids are rows of the corpus.
        targets: the corpus. If their prior is not the tree's, a new tree is built from its vectors.
        cost: books the time.
        dimension: as for `saved_index`.
        leaf_size: of such a new tree.

    Returns:
        The tree, and its vectors in the order of the corpus, ``(n, d)`` float32; reduced, where it keeps fewer
        dimensions.

    Raises:
        DataError: there is no index in the folder, or a damaged one.
        ValueError: it is not of this corpus and model.
    """
    from hardwood.tree import TargetIndex

    with cost.timed("index"):
        index = saved_index(folder, targets, dimension)
        encodings = index.vectors(np.arange(len(index)))
        if not has_prior_of(index, targets):
            warnings.warn(
                f"the index in {folder} has another prior over targets than this run, so a tree is built anew from its "
                "vectors; save one with TargetIndex.build(log_prior=) to save that time",
                stacklevel=2,
            )
            options: dict[str, Any] = {
                "dimension": index.projection, "leaf_size": leaf_size, "dtype": index.dtype, "metric": index.metric
            }  # fmt: skip
            index = TargetIndex.build(encodings, log_prior=targets.log_prior, progress=False, **options)
        return index, torch.from_numpy(encodings)


def has_prior_of(index: TargetIndex, targets: Targets) -> bool:
    """Whether a tree of this corpus weighs targets by the prior that they have now."""
    if targets.log_prior is None or not index.has_prior:
        return targets.log_prior is None and not index.has_prior
    # bfloat16 keeps eight bits.
    return bool(np.allclose(index.log_prior(np.arange(len(index))), targets.log_prior, rtol=2**-8, atol=1e-6))


def saved_index(folder: str | Path, targets: Targets, dimension: int | None) -> TargetIndex:
    """A tree of this corpus, read and verified.

    Args:
        folder: what `hardwood.tree.TargetIndex.save` wrote; ids are rows of the corpus.
        targets: the corpus.
        dimension: how many dimensions it must keep; ``None``: any number.

    Raises:
        DataError: there is no index in the folder, or a damaged one.
        ValueError: it is not of this corpus and model.
    """
    from hardwood.tree import TargetIndex

    index = TargetIndex.load(folder, mmap=False, verify=True)
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
    if not np.array_equal(index.ids, np.arange(len(index))):
        raise ValueError(
            f"the ids in {folder} are not the rows 0 to {len(index) - 1} of the corpus: build it without ids, with "
            "the vectors in the corpus's order"
        )
    return index
