"""SMAUG (ICCV 2023): the model, its data, training and evaluation. Never imports ray, mlflow or pandas."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smaug_core.retriever import Retriever


def load(folder: Path | str, device: str = "cpu") -> "Retriever":
    """Load the model of a finished training, ready to embed, score and rank clips and captions.

    Raises:
        CheckpointError: there are no weights, or they are damaged.
    """
    from smaug_core.retriever import Retriever

    return Retriever(Path(folder), device)
