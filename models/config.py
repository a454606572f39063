"""What is asked of a model and what an answer depends on: settings, the execution profile, the error family.

In scope: pydantic models that refuse what makes no sense, with one line per fault; the canonical form of an
execution profile, which is part of every key of generated text; the one root of this package's exceptions.
Not in scope: reading the environment or files, loading, and anything that needs torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

BUNDLED = Path(__file__).parent / "bundled"


class ModelError(Exception):
    """A model cannot be loaded, quantized or run; the message says what, where and what to do."""


class BundledModelMissingError(ModelError):
    """This installation holds no bundled model."""


class UnsupportedModelError(ModelError):
    """The engine cannot serve this architecture exactly."""


class CorruptModelError(ModelError):
    """Files of a model are missing, half-written or changed after they were written."""


class PromptTooLongError(ModelError):
    """A request exceeds the largest bucket; the caller elides the prompt and asks again."""


class OutOfMemoryError(ModelError):
    """The device has not the memory for a forward pass of this shape: run under a smaller policy."""


class NotANumberError(ModelError):
    """A model computed no number for a request: it is damaged, or computes in too narrow a type."""

    def __init__(self, request: str) -> None:
        super().__init__(
            f"what the model computes for {request!r} is no number (NaN): "
            "use another model, or another form of it (--quantize)"
        )
        self.request = request


Device = Literal["auto", "cpu", "cuda"]
Compute = Literal["auto", "float32", "bfloat16", "int8"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Settings):
    """Which model, in which form, on which device."""

    model: Annotated[str, Field(description="`bundled`, a folder, or an id on the Hugging Face hub")] = (
        "bundled"
    )
    quantize: Annotated[
        Literal["auto", "none", "int8", "int4", "gptq-int8", "gptq-int4"],
        Field(description="`auto` takes the model as it is stored; the others insist on one form"),
    ] = "auto"
    device: Device = "auto"
    dtype: Annotated[
        Compute,
        Field(
            description="type of computation; `auto` is int8 for a model that is stored so and meant for it, "
            "where that is fast (with VNNI; with AMX once passes are compiled), else bfloat16 where that is "
            "(CUDA, AMX), else float32"
        ),
    ] = "auto"

    @field_validator("model")
    @classmethod
    def _model_is_named(cls, model: str) -> str:
        if not model.strip():
            raise ValueError("a model must be named: `bundled`, a folder, or an id on the Hugging Face hub")
        return model


class GenerationConfig(_Settings):
    """How text is decoded: greedily, up to a stop string, an end-of-text token or a frame's own limit."""

    max_prompt_tokens: Annotated[
        int, Field(ge=1, description="prompts this long fit, prefix not counted")
    ] = 512
    max_new_tokens: Annotated[int, Field(ge=1, description="tokens after the prompt, forced and free")] = 128
    stop: Annotated[
        tuple[str, ...], Field(description="strings that end a frame; they are not in its text")
    ] = ("\n",)

    @field_validator("stop")
    @classmethod
    def _stops_are_not_empty(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string would end every text before it begins")
        return stop


class ExecutionProfile(_Settings):
    """Everything about the machine and the engine that can change a bit of the output.

    Two runs with equal profiles, weights and requests give equal bytes; that is all a profile promises.
    """

    device: Annotated[str, Field(description="`cpu`, or the name of the accelerator")]
    instruction_set: Annotated[str, Field(description="what kernels are chosen by: extensions, cache sizes")]
    dtype: str
    torch: str
    transformers: str
    threads: int
    float32_matmul_precision: str
    compiled: Annotated[str, Field(description="digest of the compiled pass; empty: as they are")]
    code: Annotated[str, Field(description="digest of the code that computes, `models.machine.code_digest`")]
    buckets: Annotated[
        dict[str, Any], Field(description="the bucket table, as `BucketTable.as_key` gives it")
    ]

    def as_key(self) -> dict[str, Any]:
        """Return the profile as plain values with sorted names, ready to be part of a key."""
        return dict(sorted(self.model_dump(mode="json").items()))
