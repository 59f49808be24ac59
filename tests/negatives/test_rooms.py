"""The sources depend on each other in one direction, and know of the rest what `hardwood.negatives` says they may."""

from __future__ import annotations

from hardwood.negatives import SOURCES as SOURCES_OF_NEGATIVES

from ..rooms import SOURCES, circles, imports, rooms_of, strangers

PLAIN = {"base", "cost", "records"}
MATRIX = PLAIN | {"softmax_matrix"}
MAY_KNOW = {
    "records": set(),
    "cost": set(),
    "margin": set(),
    "softmax_matrix": set(),
    "options": set(),
    "agreement": set(),
    "partition": set(),
    "_shard_targets": {"partition", "records"},
    "base": {"agreement", "cost", "records"},
    "in_batch": PLAIN,
    "uniform": PLAIN,
    "_top": {"records", "softmax_matrix"},
    "_matrix_draw": {"records", "softmax_matrix"},
    "exact": MATRIX | {"_top", "_matrix_draw"},
    "_part": MATRIX,
    "cache": PLAIN | {"_part"},
    "pool": PLAIN | {"_part", "_top"},
    "dynamic": MATRIX | {"_part", "_matrix_draw", "agreement", "options"},
    "sharded": MATRIX | {"_shard_targets", "agreement", "partition"},
    "registry": {"base", "options", "in_batch", "uniform", "exact", "cache", "pool", "dynamic"},
}
DYNAMIC_MAY_KNOW = {
    "policy": set(),
    "background": set(),
    "divergence": set(),
    "flat_index": set(),
    "true_encodings": set(),
    "index_form": {"true_encodings"},
    "reduced": set(),
    "drawing": {"flat_index", "index_form", "reduced"},
    "initial_index": {"flat_index", "index_form", "reduced", "true_encodings"},
    "landmarks": {"index_form"},
    "staleness": set(),
    "noise": {"staleness"},
    "schedule": {"policy", "staleness"},
    "drift_fits": {"true_encodings"},
    "refresh": {"drift_fits", "index_form", "true_encodings"},
    "moving_index": {"background", "drift_fits", "index_form", "landmarks", "noise", "refresh", "true_encodings"},
    "source": {
        "divergence",
        "drift_fits",
        "drawing",
        "flat_index",
        "index_form",
        "initial_index",
        "landmarks",
        "moving_index",
        "noise",
        "policy",
        "reduced",
    }
    | {"schedule", "staleness", "true_encodings"},
}
NEVER = {"data", "encoders", "encoding", "training", "evaluation", "mining", "comparison", "cli"}


def test_each_room_knows_only_those_below_it() -> None:
    assert rooms_of("negatives") == MAY_KNOW.keys()
    assert rooms_of("negatives.dynamic") == DYNAMIC_MAY_KNOW.keys()
    assert not strangers("negatives", MAY_KNOW)
    assert not strangers("negatives.dynamic", DYNAMIC_MAY_KNOW)


def test_no_file_imports_itself_through_others() -> None:
    assert not circles("negatives")


def test_no_source_knows_texts_models_or_the_trainer_and_one_alone_the_tree() -> None:
    files = sorted((SOURCES / "negatives").rglob("*.py"))
    assert len(files) > len(SOURCES_OF_NEGATIVES)
    for file in files:
        known = {name.split(".")[0] for name in imports(file)}
        assert not known & NEVER, file
        assert file.parent.name == "dynamic" or not known & {"tree", "drift"}, file


def test_files_are_short() -> None:
    for file in (SOURCES / "negatives").rglob("*.py"):
        assert len(file.read_text().splitlines()) < 400, file
