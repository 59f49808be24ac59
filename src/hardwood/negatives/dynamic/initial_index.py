"""The tree that a dynamic run begins with: of the model's encodings, or read from a folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardwood.negatives.cost import Cost
from hardwood.negatives.records import Floats, Targets

if TYPE_CHECKING:
    from hardwood.tree import TargetIndex


def encoded_index(targets: Targets, cost: Cost, *, leaf_size: int, dtype: str) -> tuple[TargetIndex, Floats]:
    """Encode the corpus and build the tree.

    Args:
        targets: the corpus.
        cost: books the time of the tree (that of encoding is booked by ``targets``).
        leaf_size: see `hardwood.tree.TargetIndex.build`.
        dtype: see `hardwood.tree.TargetIndex.build`.

    Returns:
        The tree, and the encodings ``(n, d)`` float32.
    """
    from hardwood.tree import TargetIndex

    encodings = np.empty((targets.num_targets, targets.dimension), dtype=np.float32)
    for rows, vectors in targets.encode():
        encodings[rows.numpy()] = vectors.numpy()
    with cost.timed("index"):
        index = TargetIndex.build(
            encodings, log_prior=targets.log_prior, leaf_size=leaf_size, dtype=dtype, progress=False
        )
        return index, encodings


def loaded_index(folder: str, targets: Targets, cost: Cost, *, leaf_size: int) -> tuple[TargetIndex, Floats]:
    """Read a tree that was saved, whose vectors are taken for the current model's encodings.

    Args:
        folder: what `hardwood.tree.TargetIndex.save` wrote; ids are rows of the corpus.
        targets: the corpus. If their prior is not the tree's, a new tree is built from its vectors.
        cost: books the time.
        leaf_size: of such a new tree.

    Returns:
        The tree, and its vectors in the order of the corpus, ``(n, d)`` float32.

    Raises:
        DataError: there is no index in the folder, or a damaged one.
        ValueError: it is not of this corpus and model.
    """
    from hardwood.tree import TargetIndex

    with cost.timed("index"):
        index = saved_index(folder, targets)
        encodings = index.vectors(np.arange(len(index)))
        if not has_prior_of(index, targets):
            warnings.warn(
                f"the index in {folder} has another prior over targets than this run, so a tree is built anew from its "
                "vectors; save one with TargetIndex.build(log_prior=) to save that time",
                stacklevel=2,
            )
            options: dict[str, Any] = {"leaf_size": leaf_size, "dtype": index.dtype, "metric": index.metric}
            index = TargetIndex.build(encodings, log_prior=targets.log_prior, progress=False, **options)
        return index, encodings


def has_prior_of(index: TargetIndex, targets: Targets) -> bool:
    """Whether a tree of this corpus weighs targets by the prior that they have now."""
    if targets.log_prior is None or not index.has_prior:
        return targets.log_prior is None and not index.has_prior
    # bfloat16 keeps eight bits.
    return bool(np.allclose(index.log_prior(np.arange(len(index))), targets.log_prior, rtol=2**-8, atol=1e-6))


def saved_index(folder: str | Path, targets: Targets) -> TargetIndex:
    """A tree of this corpus, read and verified.

    Args:
        folder: what `hardwood.tree.TargetIndex.save` wrote; ids are rows of the corpus.
        targets: the corpus.

    Raises:
        DataError: there is no index in the folder, or a damaged one.
        ValueError: it is not of this corpus and model.
    """
    from hardwood.tree import TargetIndex

    index = TargetIndex.load(folder, mmap=False, verify=True)
    wanted = (targets.num_targets, targets.dimension)
    if (len(index), index.dimension) != wanted:
        raise ValueError(
            f"the index in {folder} has {len(index):,} targets in {index.dimension} dimensions, but this corpus "
            f"and model need {wanted[0]:,} in {wanted[1]}: build it from this corpus with this model"
        )
    if not np.array_equal(index.ids, np.arange(len(index))):
        raise ValueError(
            f"the ids in {folder} are not the rows 0 to {len(index) - 1} of the corpus: build it without ids, with "
            "the vectors in the corpus's order"
        )
    return index
