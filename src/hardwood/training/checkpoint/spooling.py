"""Whether a training spools the encodings of the corpus, and where: what the trainer, the loss and its source say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hardwood.encoders import is_static
from hardwood.encoding import BLOCK
from hardwood.negatives.sharded import ShardedNegatives
from hardwood.training.checkpoint.encoding_spool import EncodingSpool
from hardwood.training.checkpoint.spool_folder import SPOOL_FOLDER, discard_others, shard_name

if TYPE_CHECKING:
    from hardwood.training.softmax_loss import CorpusSoftmaxLoss

_LEAST = BLOCK
"""Targets of a shard beyond which its encodings are spooled where nothing else is said: more than one block. Static
embeddings are made about as fast as a disk takes them."""


def open_spool(
    loss: CorpusSoftmaxLoss, output: Path, wanted: bool | None, *, place: int, global_batch: int
) -> EncodingSpool | None:
    """The spool of this process, which all processes of a training open together; what is of no use is thrown away.

    Args:
        loss: its processes have met.
        output: the trainer's output folder.
        wanted: ``True``: whatever the size; ``False``: not at all; ``None``: where it takes long.
        place: of the loss among those of the trainer.
        global_batch: pairs a forward pass of all processes, noted for a run that is resumed.
    """
    source, ranks = loss.source, loss.meet_ranks()
    folder = output / (f"{SPOOL_FOLDER}-{place}" if place else SPOOL_FOLDER)
    if wanted is False or (wanted is None and is_static(loss.targets.model)):
        if ranks.is_first:
            discard_others(folder, (), "this run spools no encodings")
        return None
    if isinstance(source, ShardedNegatives):
        num_shards = source.num_shards
        names = [shard_name(number, num_shards) for number in range(num_shards)]
        own = [names[number] for number in source.numbers]
    else:
        num_shards = 1
        names = [shard_name(0, 1, None if ranks.is_alone else rank) for rank in range(ranks.size)]
        own = [names[ranks.number]]
    if ranks.is_first:
        kind = f"divided into {num_shards}" if num_shards > 1 else "not divided"
        discard_others(folder, names, f"the corpus of this run is {kind} (processes: {ranks.size})")
    least = 1 if wanted else 1 + _LEAST
    note = {"global_batch": global_batch, "shards": num_shards}
    return EncodingSpool(folder, least, own, note=note, reports=loss.targets.progress)
