"""A plugin of pytest for `their_tests.py`: models made on the spot, our losses in place, and what does not apply."""

from __future__ import annotations

import json
import os
import re
import tempfile
import traceback
from pathlib import Path
from typing import Any

import _their_adapters as adapters
import pytest
import torch

import hardwood

_OURS = str(Path(hardwood.__file__).parent)
_ENGINE = "their own machinery, which ours does not use"
_PURPOSE = "another objective"
_RANKS = "no gathering across processes: each process draws from the whole corpus"
_STATIC = "ours takes static embeddings in mini-batches"
_LAYERS = "of AdaptiveLayerLoss itself, whatever is in it"
_MARGIN = "calls internals; tests/negatives/test_sources.py has the same of MarginFilter"
_HALF = "asks for a loss in bfloat16; ours takes scores in float32 (test_cached_loss.py)"
_HELD = "asks that features are held; ours holds parts of them (test_cached_loss.py)"
_WORDS = "asks for their words in the log; ours is a warning"

NOT_OURS: dict[str, str] = {
    "test_contrastive.py": _PURPOSE,
    "test_denoising_auto_encoder.py": _PURPOSE,
    "test_embed_distill.py": _PURPOSE,
    "test_triplet.py": _PURPOSE,
    "test_adaptive_layer.py::test_adaptive_layer_loss_raises_on_unrecognised_wrapper": _LAYERS,
    "test_adaptive_layer.py::test_adaptive_layer_loss_error_names_inner_stuck_point": _LAYERS,
    "test_adaptive_layer.py::test_adaptive_layer_loss_layer_weighting_in_config_dict": _LAYERS,
    "test_adaptive_layer.py::test_adaptive_layer_loss_invalid_layer_weighting": _LAYERS,
    "test_cached_gist_embed.py::test_gather": _RANKS,
    "test_cached_gist_embed.py::test_positive_mask": _RANKS,
    "test_cached_gist_embed.py::test_relative": _MARGIN,
    "test_cached_gist_embed.py::test_cached_gist_rejects_static": _STATIC,
    "test_gist_embed.py::test_gather": _RANKS,
    "test_gist_embed.py::test_positive_mask": _RANKS,
    "test_gist_embed.py::test_relative": _MARGIN,
    "test_cmnrl.py::test_rand_context": _ENGINE,
    "test_cmnrl.py::TestCreateMinibatchMixedModality": "texts only",
    "test_cmnrl.py::test_cmnrl_attributes": "names of their attributes",
    "test_cmnrl.py::test_cmnrl_hyperparameters": "names of their attributes",
    "test_cmnrl.py::test_cmnrl_gather": _RANKS,
    "test_gradcache.py::TestMinibatchRanges": _ENGINE,
    "test_gradcache.py::TestFlattened": _ENGINE,
    "test_gradcache.py::test_create_minibatch": _ENGINE,
    "test_gradcache.py::test_gradcache_names_the_unused_column": _ENGINE,
    "test_gradcache.py::test_adaptive_layer_warns": "ours is refused in the first step instead of warned about",
    "test_gradcache.py::test_gradcache_under_autocast": _HALF,
    "test_gradcache.py::test_gradcache_backward_releases": _HELD,
    "test_matryoshka.py::test_model_dimension_not": _WORDS + " (test_widths.py)",
    "test_matryoshka.py::test_model_dimension_none": "a model without a dimension can't be encoded with",
    "test_matryoshka.py::test_mse": _PURPOSE,
    "test_mega_batch_margin.py::test_mega_batch_margin_rejects": _STATIC,
    "test_mega_batch_margin.py::test_mega_batch_margin_adaptive": "ours is refused in the first step",
    "test_merged_forward.py::test_merge_": _ENGINE,
    "test_merged_forward.py::test_embed_columns": _ENGINE,
    "test_merged_forward.py::test_anchor_losses": "not so, and slower: ours encodes each column by itself",
    "test_merged_forward.py::test_pair_losses": _PURPOSE,
    "test_merged_forward.py::test_losses_merged_forward_matches_per_column[triplet]": _PURPOSE,
    "test_distill_kl_div.py::test_distill_kl_div_warns_once": _WORDS + " (test_teacher.py)",
    "test_distill_kl_div.py::test_distill_kl_div_separate": "asks for names of their settings",
    "test_distill_kl_div.py::test_distill_kl_div_does_not_warn_on_excluded": "what has no score is left out instead",
}
"""By the beginning of a test's name: why it says nothing about our loss."""

_COUNTS = "counts the mini-batches of the batch alone"
NOT_WITH_DRAWN = {
    "test_cached_gist_embed.py::test_cached_gist_replays_dropout": _COUNTS,
    "test_gradcache.py::test_gradcache_replays_dropout": _COUNTS,
    "test_mega_batch_margin.py::test_mega_batch_margin_replays_dropout": _COUNTS,
}

_STAND_INS = {
    "sentence-transformers-testing/stsb-bert-tiny-safetensors": "bert",
    "distilbert/distilbert-base-uncased": "bert",
    "sentence-transformers/static-retrieval-mrl-en-v1": "static",
}


def _make_models(folder: Path) -> None:
    """A random BERT of two layers and 128 numbers, which reads letter by letter, and a static encoder of 1,024."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=128, **shape)).save_pretrained(folder / "raw")
    fast.save_pretrained(folder / "raw")
    transformer = Transformer(str(folder / "raw"))
    bert = SentenceTransformer(modules=[transformer, Pooling(128)], device="cpu")
    bert.save_pretrained(str(folder / "bert"))
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=1024)], device="cpu")
    static.save_pretrained(str(folder / "static"))


def _load_stand_ins(folder: Path) -> None:
    """Names on the hub that the tests load are made on the spot instead."""
    from sentence_transformers import SentenceTransformer

    original = SentenceTransformer.__init__

    def init(self: Any, model_name_or_path: str | None = None, **kwargs: Any) -> None:
        name = _STAND_INS.get(model_name_or_path or "")
        original(self, model_name_or_path if name is None else str(folder / name), **kwargs)

    SentenceTransformer.__init__ = init


def _allow_own_words(words: dict[str, list[str]]) -> None:
    """What their errors say ours may say in its own words, which are kept for the report."""
    raises = pytest.raises

    def lenient(expected: Any, *args: Any, match: str | None = None, **kwargs: Any) -> Any:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]

        def fits(error: BaseException) -> bool:
            is_ours = any(_OURS in frame.filename for frame in traceback.extract_tb(error.__traceback__))
            if is_ours:
                words.setdefault(test, []).append(str(error))
            return is_ours or match is None or re.search(match, str(error)) is not None

        return raises(expected, *args, **kwargs) if args else raises(expected, check=fits, **kwargs)

    pytest.raises = lenient  # type: ignore[assignment]


class Plugin:
    """Runs the tests in one way and writes what came of each, a line of JSON a test."""

    def __init__(self, way: str, report: Path) -> None:
        self.way, self.report = way, report
        self.words: dict[str, list[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        reasons = NOT_OURS | (NOT_WITH_DRAWN if self.way == "drawn" else {})
        for item in items:
            name = _short(item.nodeid)
            reason = next((why for begin, why in reasons.items() if name.startswith(begin)), None)
            if reason is not None and self.way != "theirs":
                item.add_marker(pytest.mark.skip(reason=reason))

    def pytest_runtest_setup(self) -> None:
        adapters.forget()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Any:
        result = (yield).get_result()
        if result.passed and result.when != "call":
            return
        error = "" if call.excinfo is None else str(call.excinfo.value).strip() or type(call.excinfo.value).__name__
        record = {"test": _short(item.nodeid), "outcome": result.outcome, "says": error}
        if self.way != "theirs" and result.passed and not adapters.used:
            record |= {"outcome": "skipped", "says": "none of it is ours"}
        record["words"] = self.words.get(item.nodeid, [])
        with self.report.open("a") as out:
            out.write(json.dumps(record) + "\n")


def _short(nodeid: str) -> str:
    return nodeid.rpartition("/")[2]


def pytest_configure(config: pytest.Config) -> None:
    way, report = os.environ["THEIR_TESTS_WAY"], Path(os.environ["THEIR_TESTS_REPORT"])
    folder = Path(tempfile.mkdtemp(dir=report.parent))
    _make_models(folder)
    _load_stand_ins(folder)
    plugin = Plugin(way, report)
    if way != "theirs":
        adapters.remember_texts()
        adapters.with_drawn_targets = way == "drawn"
        adapters.put_in_place(adapters.CACHED if way == "beside" else adapters.ALL)
        _allow_own_words(plugin.words)
    config.pluginmanager.register(plugin, "their-tests")
