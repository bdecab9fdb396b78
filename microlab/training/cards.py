"""The card of freshly trained weights: what they are, and where, when and on what they were trained."""

from __future__ import annotations

from datetime import date
from typing import Any

from torch import nn

from microlab.training.devices import hardware
from microlab.training.fit import History


def model_card(
    model: nn.Module,
    history: History | None = None,
    *,
    trained_by: str,
    data: str,
    scores: dict[str, float],
    seed: int,
    licence: str = "MIT",
    **extra: Any,
) -> dict[str, Any]:
    """A card for :func:`microlab.data.weights.save`.

    Parameters
    ----------
    model : Module
        With an attribute ``architecture``, the keyword arguments that build it.
    history : History, optional
        Gives hardware, minutes and precision of the training. Without it, pass ``minutes``.
    trained_by, data, scores, seed, licence
        As in `microlab.data.weights.CARD_FIELDS`.
    **extra
        More fields, which replace those above if they have their names.
    """
    card = {
        "architecture": type(model).__name__,
        "parameters": model.architecture,
        "trained_by": trained_by,
        "data": data,
        "licence": licence,
        "scores": scores,
        "hardware": hardware(history.device if history else None),
        "date": date.today().isoformat(),
        "seed": seed,
    }
    if history is not None:
        minutes = max((row.get("seconds", 0.0) for row in history.rows), default=0.0) / 60
        card |= {"minutes": round(minutes, 1), "training_precision": history.precision}
    return card | extra
