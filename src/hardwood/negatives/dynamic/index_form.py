"""How the dynamic source keeps all targets' vectors: what its options say of it, and what is asked of either kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from hardwood import _checks
from hardwood.negatives.dynamic.true_encodings import TRUE_DTYPES
from hardwood.negatives.records import Floats, Ints, Targets

if TYPE_CHECKING:
    from hardwood.tree.arrays.projection import Projection

KINDS = ("tree", "flat", "auto")

FLAT_UP_TO = 10_000
"""With ``"auto"``: so many targets at most are kept flat on a CPU. (``python -m benchmarks.training.small_corpora``)"""


class VectorIndex(Protocol):
    """All targets' vectors, by rows of the corpus: what `hardwood.tree.TargetIndex` and `FlatIndex` both are."""

    def __len__(self) -> int: ...

    @property
    def dimension(self) -> int:
        """Numbers in a vector as it is kept."""
        ...

    @property
    def projection(self) -> Projection | None:
        """From the model's dimensions to those; ``None``: all are kept."""
        ...

    @property
    def has_prior(self) -> bool:
        """Whether targets have a prior."""
        ...

    def vectors(self, ids: Ints) -> Floats:
        """Those of ``ids`` ``(m,)``: ``(m, d)``, a copy."""
        ...

    def log_prior(self, ids: Ints) -> Floats:
        """``log π`` of ``ids``: ``(m,)``."""
        ...

    def update(self, vectors: Floats, ids: Ints) -> Any:
        """Write ``vectors`` ``(m, d)`` for ``ids`` ``(m,)``; ``ValueError`` if they are not finite."""
        ...

    def repair(self) -> Any:
        """Bring in order what many updates have worn."""
        ...

    def spread(self, count: int) -> Ints:
        """So many targets spread over all regions; of all of them, neighbours stand beside each other."""
        ...

    def save(self, folder: Path) -> None:
        """Write it to a folder, whole or not at all."""
        ...


@dataclass(frozen=True)
class IndexForm:
    """The options of `hardwood.negatives.DynamicNegatives` that say how vectors are kept; see there.

    Raises:
        ValueError: one of them is out of range, or a tree is to lie elsewhere than on the host.
    """

    kind: str
    device: str | None
    dimension: int | None
    dtype: str
    true_dtype: str
    leaf_size: int

    def __post_init__(self) -> None:
        _checks.one_of(KINDS, self.kind, "index_kind")
        _checks.one_of(TRUE_DTYPES, self.dtype, "index_dtype")
        _checks.one_of(TRUE_DTYPES, self.true_dtype, "true_dtype")
        _checks.at_least(1, self.leaf_size, "leaf_size")
        if self.device is None:
            return
        if self.kind == "tree":
            raise ValueError(
                f"index_device={self.device!r} is of no use: a tree lies in the host's memory. Leave it out, or take "
                "index_kind='flat'"
            )
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"index_device must be a device such as 'cuda' or 'cpu', got {self.device!r}") from error

    def check(self, targets: Targets) -> None:
        """``ValueError`` for more dimensions than these targets have."""
        if self.dimension is not None:
            from hardwood.tree.arrays.projection import check_dimension

            check_dimension(self.dimension, targets.dimension, "index_dimension")

    def kind_for(self, targets: Targets | None) -> str:
        """``"tree"`` or ``"flat"``, for a corpus of this size on this machine; of an unknown one, ``"auto"`` may be
        either, and ``"tree"`` is the answer."""
        if self.kind != "auto":
            return self.kind
        is_small = targets is not None and targets.num_targets <= FLAT_UP_TO and self.place(targets).type == "cpu"
        return "flat" if is_small else "tree"

    def place(self, targets: Targets) -> torch.device:
        """Where a flat index lies."""
        return targets.device if self.device is None else torch.device(self.device)
