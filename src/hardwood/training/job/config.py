"""Everything that determines a run, as one record that is written to and read from ``run.yaml``."""

from __future__ import annotations

import dataclasses
import difflib
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hardwood import _checks
from hardwood._files import written_whole
from hardwood._version import __version__
from hardwood.data.records.own import LEAVE_OUT, LeaveOut
from hardwood.encoders import STATIC, TOWERS, Towers, check_static_only
from hardwood.negatives.margin import MarginFilter
from hardwood.negatives.registry import IN_BATCH, SOURCES, make_source
from hardwood.training._limits import (
    DEFAULT_UNASKED_PRIOR,
    DEFAULT_UNASKED_PUSH,
    DEFAULT_WITHIN,
    WEIGHTINGS,
    Shards,
    TeacherForm,
    Weighting,
    check_guide,
    check_hardest,
    check_shards,
    check_teacher,
    check_unasked,
)
from hardwood.training.batch.sizes import FRESH, FRESH_EPOCHS, USUAL, Sizes, sizes_for
from hardwood.training.job.setting_types import check_readable, check_types

if TYPE_CHECKING:
    from hardwood.data import RetrievalDataset
    from hardwood.negatives import NegativeSource
    from hardwood.training.second_model.teacher import Teacher

PRECISIONS = ("float32", "bfloat16", "float16")

_MADE_WITH, _LEFT_OUT = "made_with", "left_out"
_NO_SETTINGS = (_MADE_WITH, _LEFT_OUT)  # what a run file says besides
STATIC_SIZES = {"dimension": 128, "vocabulary_size": 8192}
"""Settings of static encoders alone, and what they are by default."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of a training run. Defaults suit the static encoder on a CPU.

    Attributes:
        data: BEIR folder, table of pairs, or what else `hardwood.data.read_dataset` reads.
        output: folder of the run; must be new or empty.
        negatives: name of the source.
        negatives_options: the source's own options, such as ``refresh_every``.
        encoder: ``"static"``, a sentence-transformers name on the hub, or a local folder.
        towers: ``"shared"`` or ``"separate"``.
        dimension: of a static encoder; ``None``: 128. Others have their own, and giving it is an error.
        vocabulary_size: of a static encoder; ``None``: 8192. Others as for ``dimension``.
        max_length: tokens of a text that a transformer reads; ``None``: as many as it says itself.
        num_negatives: draws a query; ``None``: 8, or see ``batch_size``.
        given_negatives: targets that the qrels judge 0 or below, so many for each query, as candidates beside the
            positives (`RetrievalDataset.training_pairs`); 0: none.
        uniform_negatives: uniform draws a query beside the source's, weighed together with them.
        hardest: of the source's draws for a query, only so many with the highest scores count (biased: see
            `CorpusSoftmaxLoss`); ``None``: all.
        symmetric: the mean of two directions, query to targets and target to queries (those of the batch).
        matryoshka_dims: widths of the encodings at which the loss is taken; ``None``: the full one.
        matryoshka_weights: what each counts; ``None``: 1.
        batch_size: (query, positive) pairs a forward pass; ``None``: 128. If ``num_negatives`` is ``None`` too, and
            ``steps`` of 128 pairs would come round to each pair less than twice: 256 with 3 draws a query, less than
            once: 427 with one. These are as many texts, and better as long as pairs are fresh (`sized`).
        steps: optimiser steps; or
        epochs: passes over the training pairs, one of the two. If neither is given, and no size of a step: 2 of 256
            pairs with 3 draws a query, which are as many steps and texts as one of 128 with 8. Else 1.
        scale: inverse temperature.
        weighting: of drawn candidates, see `hardwood.losses`; ``None``: the source's, ``"tempered"`` for ``dynamic``
            and ``"shared"`` for all others.
        unasked_prior: what a target that no training query asks for counts in the softmax, above 0 and at most 1.
        unasked_push: the share of the gradient that moves such a target, from 0 to 1.
        margin: absolute false-negative margin.
        relative_margin: relative false-negative margin.
        guide: a second model against false negatives (a ``SentenceTransformer`` or ``CrossEncoder``), a name on the hub
            or a local folder; ``None``: none. See `hardwood.training.Guide`.
        guide_margin: the guide rejects what it scores above the positive's score less this.
        guide_within: how far below the positive, by the model in training, a candidate is judged.
        teacher: the guide's scores as a target beside the cross entropy: ``"kl"`` or ``"margin-mse"``; ``None``: not.
        teacher_weight: what that term counts.
        teacher_temperature: the guide's scores are divided by it; ``None``: see `hardwood.training.Teacher`.
        learning_rate: peak; ``None``: 0.2 for an encoder whose weights are all static embeddings (made here or
            loaded), 2e-5 for others.
        scheduler: a name that ``transformers`` knows.
        warmup_ratio: share of the steps in which the learning rate rises.
        gradient_accumulation: batches an optimiser step.
        mini_batch_size: texts a forward pass, with activations recomputed (GradCache); ``None``: all at once.
        encode_batch_size: texts a forward pass where targets are encoded without gradient (the corpus, landmarks). An
            accelerator is faster with more; long texts on a small one may need fewer.
        precision: of the forward pass: float32, or autocast to bfloat16 or float16. Weights are float32 in any case,
            also those of an encoder that was saved in 16 bits.
        seed: of everything random.
        train_split: split to train on.
        evaluation_splits: splits measured at the end; ``None``: all others.
        evaluate_every: steps between two evaluations on ``curve_split`` during training; ``None``: none.
        curve_split: split of the training curve.
        leave_out: of a query's ranking where it is measured, see `hardwood.evaluate`: ``"own-id"``, ``"own-text"`` or
            ``"nothing"``.
        save_every: steps between two checkpoints; ``None``: none.
        spool_encodings: whether encodings of the corpus are kept on disk until a checkpoint has what was made of them,
            so that ``resume`` goes on where a crash broke them off; ``None``: where they take long (see
            `NegativesCallback`).
        report_to: e.g. ``["tensorboard"]``, ``["wandb"]``.
        report: whether the run's folder gets ``report.html``, and a trace is noted for it (`hardwood.report.Trace`).
        report_base: whether the base model is measured before training, for the report: one evaluation more.
        report_texts: whether texts are in trace and page, or ids alone.
        query: column of query texts, where ``data`` is a table of pairs; ``None``: guessed if one alone can be meant.
        positive: column of target texts; ``None``: likewise.
        corpus: table of all targets, those that no pair names among them.
        corpus_column: its column of texts; ``None``: guessed.
        test_share: of the targets with a training query, held out as the split "test" where ``train_split`` is the only
            one; 0: none. The choice depends on the data alone, not on ``seed``.
        unjudged: ``"error"`` or ``"ignore"`` queries that no split judges.
        lenient: leave out what is broken in ``data``, and count it (see `RetrievalDataset.load`).
        trust_remote_code: run code that comes with a hub model.
        device: ``None``: an accelerator if there is one.
        shards: what several processes do with the corpus: ``"divided"`` or ``"replicated"``, see `CorpusSoftmaxLoss`.
        num_shards: into how many shards it is divided; ``None``: one a process.
        threads: of PyTorch on the CPU, and of the tree (`hardwood.tree.set_threads`); ``None``: for PyTorch its default
            or ``OMP_NUM_THREADS``, for the tree the processors that this process may use.
    """

    data: str
    output: str
    negatives: str = "dynamic"
    negatives_options: dict[str, Any] = field(default_factory=dict)
    encoder: str = STATIC
    towers: Towers = "shared"
    dimension: int | None = None
    vocabulary_size: int | None = None
    max_length: int | None = None
    num_negatives: int | None = None
    given_negatives: int = 0
    uniform_negatives: int = 0
    hardest: int | None = None
    symmetric: bool = False
    matryoshka_dims: list[int] | None = None
    matryoshka_weights: list[float] | None = None
    batch_size: int | None = None
    steps: int | None = None
    epochs: float | None = None
    scale: float = 20.0
    weighting: Weighting | None = None
    unasked_prior: float = DEFAULT_UNASKED_PRIOR
    unasked_push: float = DEFAULT_UNASKED_PUSH
    margin: float | None = None
    relative_margin: float | None = None
    guide: str | None = None
    guide_margin: float = 0.0
    guide_within: float = DEFAULT_WITHIN
    teacher: TeacherForm | None = None
    teacher_weight: float = 1.0
    teacher_temperature: float | None = None
    learning_rate: float | None = None
    scheduler: str = "linear"
    warmup_ratio: float = 0.1
    gradient_accumulation: int = 1
    mini_batch_size: int | None = None
    encode_batch_size: int = 256
    precision: str = "float32"
    seed: int = 0
    train_split: str = "train"
    evaluation_splits: list[str] | None = None
    evaluate_every: int | None = None
    curve_split: str = "dev"
    leave_out: LeaveOut = "own-id"
    save_every: int | None = None
    spool_encodings: bool | None = None
    report_to: list[str] = field(default_factory=list)
    report: bool = True
    report_base: bool = True
    report_texts: bool = True
    query: str | None = None
    positive: str | None = None
    corpus: str | None = None
    corpus_column: str | None = None
    test_share: float = 0.1
    unjudged: Literal["error", "ignore"] = "error"
    lenient: bool = False
    trust_remote_code: bool = False
    device: str | None = None
    shards: Shards = "divided"
    num_shards: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("data", "output", "encoder", "corpus", "guide"):
            check_readable(name, getattr(self, name) or "")
        self._check_counts()
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"give steps or epochs, not both (got steps={self.steps}, epochs={self.epochs})")
        for name in ("scale", "learning_rate", "epochs"):
            if getattr(self, name) is not None:
                _checks.positive(getattr(self, name), name)
        for name in ("warmup_ratio", "test_share"):
            _checks.share(getattr(self, name), name)
        if self.weighting is not None:
            _checks.one_of(WEIGHTINGS, self.weighting, "weighting")
        check_hardest(self.hardest, self.sizes.draws)
        check_guide(self.guide_margin, self.guide_within)
        check_unasked(self.unasked_prior, self.unasked_push)
        check_shards(self.shards, self.num_shards)
        _checks.one_of(PRECISIONS, self.precision, "precision")
        _checks.one_of(TOWERS, self.towers, "towers")
        _checks.one_of(LEAVE_OUT, self.leave_out, "leave_out")
        _checks.one_of(("error", "ignore"), self.unjudged, "unjudged")
        _checks.one_of(SOURCES, self.negatives, "negatives")
        check_static_only(self.encoder, dimension=self.dimension, vocabulary_size=self.vocabulary_size)
        self.make_margin()
        self._check_teacher()
        self.make_source()  # last, since it loads torch

    def _check_counts(self) -> None:
        for name in ("gradient_accumulation", "encode_batch_size"):
            _checks.at_least(1, getattr(self, name), name)
        optional = (
            "batch_size",
            "num_negatives",
            "steps",
            "mini_batch_size",
            "evaluate_every",
            "save_every",
            "threads",
        )
        for name in (*optional, "max_length", "dimension"):
            if getattr(self, name) is not None:
                _checks.at_least(1, getattr(self, name), name)
        for name in ("uniform_negatives", "given_negatives"):
            _checks.at_least(0, getattr(self, name), name)
        for name, kinds in (("matryoshka_dims", int), ("matryoshka_weights", (int, float))):
            members = getattr(self, name) or []
            if not all(isinstance(member, kinds) and not isinstance(member, bool) and member > 0 for member in members):
                raise ValueError(f"{name} must be positive numbers, got {members!r}")

    @property
    def sizes(self) -> Sizes:
        """Pairs and draws of a step: as given, or the usual ones."""
        return Sizes(self.batch_size or USUAL.pairs, self.num_negatives or USUAL.draws)

    def sized(self, num_pairs: int, num_processes: int = 1) -> RunConfig:
        """These settings with ``batch_size``, ``num_negatives`` and ``epochs`` chosen, where they are ``None``.

        Args:
            num_pairs: training pairs that there are.
            num_processes: that train together; each has batches of its own.
        """
        sizes, epochs = self.sizes, self.epochs
        if self.has_free_sizes and self.steps is not None:
            batch = USUAL.pairs * self.gradient_accumulation * num_processes
            sizes = sizes_for(self.steps, batch, num_pairs)
        elif self.steps is None and epochs is None:
            sizes, epochs = (FRESH, FRESH_EPOCHS) if self.has_free_sizes else (sizes, 1.0)
        return dataclasses.replace(self, batch_size=sizes.pairs, num_negatives=sizes.draws, epochs=epochs)

    def in_steps(self, num_pairs: int) -> RunConfig:
        """These settings with as many ``steps`` as their epochs have on one process, for runs that are to have as many.

        Args:
            num_pairs: training pairs that there are.
        """
        batch = self.sizes.pairs * self.gradient_accumulation
        steps = max(1, math.ceil((self.epochs or 1.0) * num_pairs / batch))
        return dataclasses.replace(self, steps=steps, epochs=None)

    @property
    def has_free_sizes(self) -> bool:
        """Whether pairs and draws of a step are to be chosen: neither is given, and the source draws."""
        given = (self.batch_size, self.num_negatives, self.hardest)
        return given == (None, None, None) and self.negatives != IN_BATCH

    @property
    def weighting_in_force(self) -> str:
        """How drawn candidates are weighed: as given, or as the source says."""
        return self.weighting or self.make_source().weighting

    def differs_in(self, other: RunConfig) -> list[str]:
        """The names of the settings in which two runs differ; a default that is spelled out makes no difference."""
        names = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) != getattr(other, f.name)]
        if "weighting" in names and self.weighting_in_force == other.weighting_in_force:
            names.remove("weighting")
        for name in ("batch_size", "num_negatives", "epochs"):  # chosen when the run began, where it is not given
            if name in names and None in (getattr(self, name), getattr(other, name)):
                names.remove(name)
        for name, default in STATIC_SIZES.items():
            if name in names and all((getattr(run, name) or default) == default for run in (self, other)):
                names.remove(name)
        return names

    def read_data(self, *, quiet: bool = False) -> RetrievalDataset:
        """The dataset, read anew; unless ``quiet``, it says on stderr which columns it guessed, and whether it made a
        test."""
        from hardwood.data import read_dataset

        return read_dataset(
            self.data,
            query=self.query,
            positive=self.positive,
            corpus=self.corpus,
            corpus_column=self.corpus_column,
            test_share=self.test_share,
            train_split=self.train_split,
            lenient=self.lenient,
            unjudged=self.unjudged,
            announce=(lambda _line: None) if quiet else None,
        )

    def make_source(self) -> NegativeSource:
        """A new source of negatives with this run's options."""
        return make_source(self.negatives, **self.negatives_options)

    def make_teacher(self) -> Teacher | None:
        """What the guide's scores are used for beside judging."""
        if self.teacher is None:
            return None
        from hardwood.training.second_model.teacher import Teacher

        return Teacher(self.teacher, self.teacher_weight, temperature=self.teacher_temperature)

    def _check_teacher(self) -> None:
        if self.teacher is None:
            return
        check_teacher(self.teacher, self.teacher_weight, self.teacher_temperature)
        if self.guide is None:
            raise ValueError(
                f"the teacher is {self.teacher!r} with the guide's scores, but there is no guide: give one"
            )

    def make_margin(self) -> MarginFilter:
        """This run's false-negative filter."""
        return MarginFilter(self.margin, self.relative_margin)

    @classmethod
    def from_mapping(cls, settings: dict[str, Any]) -> RunConfig:
        """Settings by name, as in ``run.yaml``.

        Raises:
            ValueError: an unknown name (with the nearest known one), a missing one, or a value out of range.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for name in settings:
            if name not in known and name not in _NO_SETTINGS:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
                raise ValueError(f"unknown setting {name!r}{hint}")
        if not isinstance(settings.get(_LEFT_OUT, {}), Mapping):
            raise ValueError(
                f"{_LEFT_OUT!r} is what a run notes of its data, by kind, got {settings[_LEFT_OUT]!r}: what measures "
                "leave out of a query's ranking is the setting 'leave_out'"
            )
        if missing := [name for name in ("data", "output") if name not in settings]:
            plural = "settings {} are" if len(missing) > 1 else "setting {} is"
            raise ValueError(f"the {plural.format(' and '.join(map(repr, missing)))} missing")
        return cls(**{name: value for name, value in settings.items() if name not in _NO_SETTINGS})

    @classmethod
    def given_in(cls, settings: dict[str, Any]) -> set[str]:
        """The names of the settings that were chosen: none of a run file that a run has written, with all."""
        return set() if _MADE_WITH in settings else settings.keys() & {f.name for f in dataclasses.fields(cls)}

    @classmethod
    def load(cls, path: str | Path) -> RunConfig:
        """The settings in a run file.

        Raises:
            ValueError: as `read_settings` and `from_mapping`; it names the file.
        """
        from hardwood.training.job.yaml_file import read_settings

        settings = read_settings(path)
        try:
            return cls.from_mapping(settings)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path, left_out: Mapping[str, int] | None = None) -> None:
        """Write all settings, and the versions of what they were run with, as YAML.

        Args:
            path: the file.
            left_out: of the dataset, noted where a lenient reader counted it.
        """
        import yaml

        noted = {} if left_out is None else {_LEFT_OUT: dict(left_out)}
        content = {**dataclasses.asdict(self), **noted, _MADE_WITH: versions()}
        with written_whole(path) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of Hardwood, Python and the packages that results depend on."""
    packages = ("torch", "sentence-transformers", "transformers", "datasets", "tokenizers", "numpy")
    found = {"hardwood": __version__, "python": platform.python_version()}
    return found | {package: metadata.version(package) for package in packages}
