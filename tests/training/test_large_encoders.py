"""What large encoders bring: left padding, instructions, LoRA, gradient checkpointing, bfloat16 weights, torch.compile.

The model is tiny and random, and made as Qwen3-Embedding is.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import TrainerCallback, set_seed

from exact_softmax import NUM_TARGETS, batch_of, gradient_of
from hardwood import encoder_arguments, evaluate
from hardwood.data import RetrievalDataset
from hardwood.encoding import target_vectors
from hardwood.negatives import DynamicNegatives, RefreshPolicy
from hardwood.training import CachedCorpusSoftmaxLoss, CorpusSoftmaxLoss, NegativesCallback
from tiny_models import make_qwen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:.*pin_memory.*:UserWarning",
        "ignore:.*lr_scheduler.step.*:UserWarning",
        "ignore::DeprecationWarning:torch.*",
        "ignore:.*gradient_checkpointing.*:FutureWarning",
    ),
]


@pytest.fixture(scope="module")
def qwen_folder(dataset: RetrievalDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen(tmp_path_factory.mktemp("qwen"), dataset.corpus.texts())


def _add_lora(model: SentenceTransformer, dropout: float = 0.0) -> SentenceTransformer:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    model.add_adapter(
        peft.LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, target_modules=["q_proj", "v_proj", "down_proj"])
    )
    return model


def _loss(model: SentenceTransformer, dataset: RetrievalDataset, **options: Any) -> CorpusSoftmaxLoss:
    refresh = RefreshPolicy(**{"every": 3} | options.pop("refresh", {}))
    source = DynamicNegatives(refresh=refresh, landmarks=16, leaf_size=8)
    return CorpusSoftmaxLoss(model, dataset, source, num_negatives=4, **options)


def _trainer(
    model: SentenceTransformer, dataset: RetrievalDataset, folder: Path, loss: CorpusSoftmaxLoss, **options: Any
) -> SentenceTransformerTrainer:
    set_seed(0)
    settings: dict[str, Any] = {
        "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 8,
        "learning_rate": 1e-2, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    arguments = SentenceTransformerTrainingArguments(str(folder), **settings | encoder_arguments(model) | options)
    callbacks: list[TrainerCallback] = [NegativesCallback(loss)]
    return SentenceTransformerTrainer(model, arguments, dataset.training_pairs(), loss=loss, callbacks=callbacks)


def _weights(model: SentenceTransformer) -> torch.Tensor:
    return torch.cat([parameter.detach().float().flatten() for parameter in model.parameters()])


def _one_by_one(model: SentenceTransformer, texts: list[str], prompt: str | None) -> torch.Tensor:
    """The naive twin of encoding with gradient: no two texts in a batch, so nothing is padded."""
    encodings = [model(model.preprocess([text], prompt=prompt))["sentence_embedding"] for text in texts]
    return torch.nn.functional.normalize(torch.cat(encodings).float(), dim=1)


@pytest.mark.parametrize("kind", [CorpusSoftmaxLoss, CachedCorpusSoftmaxLoss])
def test_left_padding_and_instructions_change_nothing(kind: type, qwen_folder: Path, dataset: RetrievalDataset) -> None:
    """With every target drawn the loss is that of texts that are encoded one by one, in value and gradient."""
    model = SentenceTransformer(str(qwen_folder), device="cpu")
    assert model.tokenizer.padding_side == "left"
    loss = kind(model, dataset, "uniform", num_negatives=NUM_TARGETS, scale=7.0)
    features, labels = batch_of(model, dataset, range(0, 50, 3))
    mask = features[0]["attention_mask"]
    assert mask[:, -1].all()  # texts end at the right edge
    assert not mask[:, 0].all()
    total = sum(loss(features, labels).values())
    queries = _one_by_one(model, dataset.queries.texts(labels[:, 0]), model.prompts["query"])
    targets = _one_by_one(model, dataset.corpus.texts(), None)
    scores = 7.0 * queries @ targets.T
    known = dataset.known_positives()
    for row, (query, positive) in enumerate(labels.tolist()):
        others = [target for target in known[query].tolist() if target != positive]
        scores[row, others] = -torch.inf
    exact = torch.nn.functional.cross_entropy(scores, labels[:, 1])
    torch.testing.assert_close(total, exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_of(model, total), gradient_of(model, exact), atol=1e-5, rtol=1e-3)


def test_an_instruction_reaches_queries_alone(qwen_folder: Path, dataset: RetrievalDataset, tmp_path: Path) -> None:
    """The source's encodings are those of targets without it, and an instruction before positives is refused."""
    model = SentenceTransformer(str(qwen_folder), device="cpu")
    loss = _loss(model, dataset)
    _trainer(model, dataset, tmp_path, loss, max_steps=1, learning_rate=1e-12).train()
    stored = loss.source.stored_vectors(torch.arange(NUM_TARGETS))
    alone = _one_by_one(model.eval(), dataset.corpus.texts(), None).detach()
    torch.testing.assert_close(stored, alone, atol=1e-4, rtol=1e-4)
    loss = _loss(model, dataset)
    trainer = _trainer(model, dataset, tmp_path, loss, max_steps=1, prompts=model.prompts["query"])
    with pytest.warns(UserWarning, match="Instruct"):  # before all columns: so before drawn targets too, and not unseen
        trainer.train()
    assert loss.target_prompt == model.prompts["query"]


def test_lora_trains_and_resumes_bit_for_bit(qwen_folder: Path, dataset: RetrievalDataset, tmp_path: Path) -> None:
    def made() -> SentenceTransformer:
        return _add_lora(SentenceTransformer(str(qwen_folder), device="cpu"), dropout=0.1)

    model = made()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    loss = _loss(model, dataset)
    before = target_vectors(model, dataset.corpus)
    _trainer(model, dataset, tmp_path, loss).train()
    assert frozen
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert abs(target_vectors(model, dataset.corpus) - before).max() > 1e-3
    again = made()
    _trainer(again, dataset, tmp_path, _loss(again, dataset)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-3")
    )
    assert torch.equal(_weights(again), _weights(model))


def test_the_noise_of_lora_is_found(qwen_folder: Path, dataset: RetrievalDataset, tmp_path: Path) -> None:
    """Its dropout does nothing before the first update, since B is 0; nor is there a refresh that would look again."""
    model = _add_lora(SentenceTransformer(str(qwen_folder), device="cpu"), dropout=0.5)
    loss = _loss(model, dataset, refresh={"every": None, "when": None})
    noise: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            noise.append(float(loss.source.state_dict()["noise"][0]))

    trainer = _trainer(model, dataset, tmp_path, loss, save_strategy="no")
    trainer.add_callback(Watch())
    trainer.train()
    assert noise[0] == 0
    assert noise[-1] > 1e-3
    # What is found is what the same weights give with dropout and without.
    encoded = [target_vectors(model.eval(), dataset.corpus)]
    with torch.no_grad():
        features = model.preprocess(dataset.corpus.texts())
        encoded.append(torch.nn.functional.normalize(model.train()(features)["sentence_embedding"], dim=1).numpy())
    now = float(1 - (encoded[0] * encoded[1]).sum(axis=1).mean())
    assert 0.2 * now < noise[-1] < 5 * now


@pytest.mark.parametrize("with_lora", [False, True])
def test_gradient_checkpointing_changes_nothing(
    with_lora: bool, qwen_folder: Path, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    """Weights after a few steps are those without it, and activations are computed twice."""
    ends, forwards = [], []
    for is_on in (False, True):
        model = SentenceTransformer(str(qwen_folder), device="cpu")
        if with_lora:
            _add_lora(model)
        count = [0]
        attention = next(module for name, module in model.named_modules() if name.endswith("layers.0.self_attn"))
        attention.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        options = {"gradient_checkpointing_kwargs": {"use_reentrant": False}} if is_on else {}
        _trainer(
            model, dataset, tmp_path, _loss(model, dataset), gradient_checkpointing=is_on, save_strategy="no", **options
        ).train()
        ends.append(_weights(model))
        forwards.append(count[0])
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-3)
    assert forwards[1] > forwards[0]


def test_bfloat16_weights_train_and_resume_bit_for_bit(
    qwen_folder: Path, dataset: RetrievalDataset, tmp_path: Path
) -> None:
    def made() -> SentenceTransformer:
        return SentenceTransformer(str(qwen_folder), device="cpu", model_kwargs={"dtype": torch.bfloat16})

    model = made()
    loss = _loss(model, dataset)
    features, labels = batch_of(model, dataset, range(8))
    terms = loss(features, labels)
    assert all(term.dtype == torch.float32 for term in terms.values())  # encodings are rounded, scores and sums not
    sum(terms.values()).backward()
    loss = _loss(model, dataset)
    _trainer(model, dataset, tmp_path, loss).train()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert float(loss.source.state_dict()["noise"][0]) == 0  # rounding is no noise
    again = made()
    _trainer(again, dataset, tmp_path, _loss(again, dataset)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-3")
    )
    assert torch.equal(_weights(again), _weights(model))
    assert evaluate(again, dataset, split="test")


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_model_trains_as_it_is(qwen_folder: Path, dataset: RetrievalDataset, tmp_path: Path) -> None:
    ends = []
    for is_compiled in (False, True):
        model = SentenceTransformer(str(qwen_folder), device="cpu")
        loss = _loss(model, dataset)
        _trainer(model, dataset, tmp_path / str(is_compiled), loss, torch_compile=is_compiled, max_steps=3).train()
        ends.append(_weights(model))
    torch.testing.assert_close(ends[0], ends[1], atol=1e-4, rtol=1e-3)
