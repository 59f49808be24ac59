"""What the trainer makes of its datasets' columns: which are texts, and what it puts before each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LABELS = ("label", "labels", "score", "scores")
"""Columns that sentence-transformers takes for labels: the first of these that a dataset has; all others are texts."""


NamedSet = tuple[str | None, Any]
"""A dataset, with its name among several if the trainer passes that to the loss."""


def text_columns(names: Iterable[str], labels: Iterable[str] = LABELS) -> list[str]:
    """The columns whose texts reach the loss, in their order.

    Args:
        names: of all columns.
        labels: names that the trainer takes for labels.
    """
    texts = [name for name in names if name != "dataset_name"]
    label = next((name for name in labels if name in texts), None)
    return [name for name in texts if name != label]


def prompts_for(prompts: Any, dataset_name: str | None, columns: Iterable[str]) -> list[str]:
    """What the trainer's collator puts before each column, as sentence-transformers resolves its ``prompts``.

    Args:
        prompts: one text for all columns, texts by column, or such mappings by dataset; ``None``: none.
        dataset_name: of one dataset among several; ``None`` where there is one.
        columns: names of text columns.

    Returns:
        A prompt a column; ``""`` where there is none.
    """
    if isinstance(prompts, Mapping) and prompts:
        if dataset_name in prompts:
            prompts = prompts[dataset_name]
        elif isinstance(next(iter(prompts.values())), Mapping):  # by dataset, and this one is not among them
            prompts = {}
    if isinstance(prompts, str):
        return [prompts for _ in columns]
    return [(prompts or {}).get(column) or "" for column in columns]


def sets_of(dataloader: Any) -> list[NamedSet]:
    """The datasets that a trainer's loader reads, each with its name where the trainer passes that to the loss.

    Args:
        dataloader: of ``TrainerCallback``'s events; ``None`` gives no dataset.
    """
    dataset = getattr(dataloader, "dataset", None)
    if dataset is None:
        return []
    return [(_name_of(part), part) for part in getattr(dataset, "datasets", None) or [dataset]]


def _name_of(dataset: Any) -> str | None:
    """The name among several datasets, which the trainer puts into every row when it is read."""
    if not hasattr(dataset, "select") or not len(dataset):
        return None
    name = dataset[0].get("dataset_name")
    return name if isinstance(name, str) else None
