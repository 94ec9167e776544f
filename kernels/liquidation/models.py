"""Liquidation by margin model, by the type of its parameters; another model is another entry."""

from typing import Any

from kernels.liquidation import bybit, okx
from kernels.liquidation.records import LiquidationModel
from kernels.models.bybit_contracts import BybitParameters
from kernels.models.okx import OkxParameters


MODELS: dict[type, LiquidationModel] = {OkxParameters: okx.MODEL, BybitParameters: bybit.MODEL}


def liquidation_of(params: Any) -> LiquidationModel:
    """The liquidation of the margin model that the numbers are of."""
    return MODELS[type(params)]
