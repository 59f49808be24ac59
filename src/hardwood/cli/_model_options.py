"""The options by which commands name a model that is trained already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Trained = Annotated[str, typer.Argument(help="Sentence-transformers model: a folder, or a name on the hub.")]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How it is loaded, and where to."""

    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda; default: what there is.")] = None

    def check(self, model: str) -> None:
        """Refuse what can't be had before torch is loaded and the data is read."""
        from hardwood.encoders import check_device, check_encoder_name

        check_device(self.device)
        check_encoder_name(model)

    def load(self, model: str) -> SentenceTransformer:
        """The model."""
        from hardwood.encoders import load_encoder

        return load_encoder(model, device=self.device, trust_remote_code=self.trust_remote_code)
