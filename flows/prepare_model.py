"""A quantized form of a model, made once for each of its revisions and found again.

`prepare` does it in this process; `prepare_model` is the same as a Prefect flow.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

# Before Prefect is imported: unless told not to, its server reports home.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

from prefect import flow, get_run_logger
from pydantic import Field

from flows.samples import calibration
from flows.settings import cache_home
from models import quantize
from models.config import ModelError
from tasks.documents import SourceError


class Method(StrEnum):
    """How weights are stored."""

    int8 = "int8"
    int4 = "int4"
    gptq_int8 = "gptq-int8"
    gptq_int4 = "gptq-int4"


def prepare(model: str, method: str) -> Path:
    """Quantize a model, unless that was done; builds with `--quantize METHOD` then find it.

    Raises:
        SourceError: The model cannot be read or quantized.
    """
    if model == "none":
        raise SourceError("no model is named: give a folder or a hub id")
    try:
        return quantize.prepare(model, method, cache_home(), calibration())
    except ModelError as error:
        raise SourceError(f"model: {error}") from error


@flow(name="prepare-model")
def prepare_model(
    model: Annotated[
        str, Field(description="a folder or a hub id", min_length=1, json_schema_extra={"position": 0})
    ],
    method: Annotated[
        Method, Field(description="how weights are stored", json_schema_extra={"position": 1})
    ] = Method.int8,
) -> str:
    """Make the quantized form of a model that builds use with the same method."""
    folder = prepare(model, method.value)
    get_run_logger().info("%s as %s is in %s", model, method.value, folder)
    return str(folder)
