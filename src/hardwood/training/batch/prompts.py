"""Prompts: drawn targets must get what the trainer puts before positives, or the encoder learns to see the prompt."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hardwood.encoders import document_prompt, query_prompt
from hardwood.training.batch.columns import LABELS, NamedSet, prompts_for, text_columns

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def trainer_prompts(sets: Sequence[NamedSet], collator: Any, prompts: Any) -> tuple[str, str] | None:
    """What a trainer puts before queries and before targets.

    Args:
        sets: its datasets that reach the loss, with their names.
        collator: of its batches; its own ``prompts`` count if it has any.
        prompts: of its arguments.

    Returns:
        ``(query prompt, target prompt)``, ``""`` where there is none; ``None`` without a set whose columns are known.

    Raises:
        ValueError: columns of targets, or datasets, that get different prompts.
    """
    labels, prompts = getattr(collator, "valid_label_columns", LABELS), getattr(collator, "prompts", prompts)
    query: str | None = None
    target: dict[str, str] = {}  # by prompt: the first column that gets it
    for name, data in sets:
        columns = text_columns(getattr(data, "column_names", None) or [], labels)
        if len(columns) < 2:
            continue
        first, *others = prompts_for(prompts, name, columns)
        query = first if query is None else query
        for column, prompt in zip(columns[1:], others, strict=True):
            target.setdefault(prompt, f"{column!r}" + (f" of {name!r}" if name is not None else ""))
    if len(target) > 1:
        found = ", ".join(f"{prompt!r} before the column {column}" for prompt, column in target.items())
        raise ValueError(
            f"the trainer puts different prompts before targets ({found}), and drawn targets can have but one: give "
            "all columns of targets the same prompt, or each dataset a loss of its own"
        )
    return None if query is None else (query, next(iter(target)))


def agreed_target_prompt(given: str | None, model: SentenceTransformer, query: str, target: str) -> str:
    """The prompt for drawn targets, by what the trainer puts before ``target``\\ s and the model before documents.

    Args:
        given: ``target_prompt`` of the loss; ``None``: not given.
        model: evaluation and `encode_document` use its own prompts.
        query: what the trainer puts before queries.
        target: what it puts before targets.

    Raises:
        ValueError: the trainer's prompt is not the one that was given, or not the model's.
    """
    own = document_prompt(model) or ""
    put = f"puts {target!r}" if target else "puts nothing"
    if given is not None and given != target:
        raise ValueError(
            f"the loss puts {given!r} before drawn targets (target_prompt), and the trainer {put} before "
            f"positives: give the loss target_prompt={target!r}, or the trainer's arguments that prompt for the "
            "positives' column (prompts={'anchor': ..., 'positive': ...}, by the names of your columns)"
        )
    if given is None and own and own != target:
        raise ValueError(
            f"the model puts {own!r} before documents, and the trainer {put} before positives, so that drawn targets "
            "would differ from positives: give the trainer's arguments **encoder_arguments(model, pairs.column_names), "
            f"which has the model's prompts by column, or give the loss target_prompt={target!r} if targets shall be "
            "trained so"
        )
    models = {"queries": query_prompt(model) or "", "targets": own}
    trained = {"queries": query, "targets": target}
    if differ := [what for what in trained if trained[what] != models[what]]:
        puts = " and ".join(f"{trained[what]!r} before {what}" for what in differ)
        has = " and ".join(repr(models[what]) for what in differ)
        warnings.warn(
            f"training puts {puts}, where the model's own prompts are {has}, and evaluation, mining, encode_query and "
            "encode_document use the model's: set model.prompts = {'query': ..., 'document': ...} if they shall be as "
            "in training",
            stacklevel=4,
        )
    return target
