"""Margin models by the type of their parameters; another model is another entry here."""

from typing import Any

from kernels.model import MarginModel
from kernels.models import bybit, okx, okx_contracts


MODELS: dict[type, MarginModel] = {
    okx_contracts.OkxParameters: okx.MODEL,
    bybit.BybitParameters: bybit.MODEL,
}
MODELS_BY_NAME = {model.name: model for model in MODELS.values()}
"""The same by the ``model`` key of parameter files."""


def model_of(params: Any) -> MarginModel:
    """The margin model that the numbers are of."""
    return MODELS[type(params)]
