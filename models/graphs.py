"""A step at fixed shapes: launched kernel by kernel, or all at once as a CUDA graph.

A GPU computes a step of a small model in less time than Python takes to launch the hundreds of kernels in
it. A graph remembers them, with the addresses that they read and write, and launches them as one. Inputs
therefore always lie in the same place; they and the results travel through pinned memory. What waits is who
reads a result, and a step whose last inputs are still on their way. Where there is no GPU everything but the
graph is the same.

In scope: where inputs and results lie, recording, replaying. Not in scope: which steps there are, and what
they compute (`models.runner`, `models.passes`).

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

GraphMemory = Any  # torch's handle of what several graphs work in, one at a time

# In the name of rotary embeddings that look at the longest position of each batch on the host: no graph can.
_LOOKING = "dynamic"


def graph_memory(model: PreTrainedModel) -> GraphMemory | None:
    """Return memory for the graphs of a model; None where its steps cannot be recorded."""
    if model.device.type != "cuda" or not is_recordable(model.config):
        return None
    return torch.cuda.graph_pool_handle()


def is_recordable(config: PreTrainedConfig) -> bool:
    """Tell whether a graph can hold the steps of such a model."""
    return not any(_LOOKING in rotation for rotation in _rotations(config.to_dict()))


def _rotations(settings: dict[str, Any]) -> set[str]:
    """Return the types of rotary embedding in a model's configuration, for all layers or by kinds of them."""
    found = {str(settings["rope_type"])} if "rope_type" in settings else set()
    return found.union(*(_rotations(part) for part in settings.values() if isinstance(part, dict)))


class FixedStep:
    """A function of tensors that is called with inputs of always the same shapes.

    With `memory` it is recorded at its second call; during the first, libraries still set themselves up. It
    must then wait for nothing on the device, and what it returns is to be read before another step that
    works in the same memory is called.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[torch.Tensor]],
        device: torch.device,
        memory: GraphMemory | None,
    ) -> None:
        self._function, self._device, self._memory = function, device, memory
        self._inputs: list[torch.Tensor] = []
        self._sent: list[_Pinned] = []
        self._computed: Sequence[torch.Tensor] = ()
        self._received: list[_Pinned] = []
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: Sequence[Any]) -> None:
        """Compute, without waiting for it; `inputs` are whole numbers, nested as the tensors are."""
        given = [torch.tensor(numbers) for numbers in inputs]
        first = not self._inputs
        if first:
            self._inputs = [torch.empty_like(tensor, device=self._device) for tensor in given]
            self._sent = [_Pinned(tensor) for tensor in self._inputs]
        for pinned, target, tensor in zip(self._sent, self._inputs, given, strict=True):
            pinned.send(tensor, target)
        if self._memory and not first and not self._graph:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._memory):
                computed = self._function(*self._inputs)
            self._graph, self._computed = graph, computed
        if self._graph:
            self._graph.replay()
        else:
            self._computed = self._function(*self._inputs)

    @property
    def is_recorded(self) -> bool:
        """Whether calls replay a graph."""
        return self._graph is not None

    def results(self) -> list[torch.Tensor]:
        """Wait for what was computed and return it on the host, where the next call overwrites it."""
        if not self._received:
            self._received = [_Pinned(tensor) for tensor in self._computed]
        for pinned, tensor in zip(self._received, self._computed, strict=True):
            pinned.receive(tensor)
        return [pinned.read() for pinned in self._received]


class _Pinned:
    """A place on the host that a GPU copies from and to by itself."""

    def __init__(self, like: torch.Tensor) -> None:
        on_gpu = like.device.type == "cuda"
        self._values = torch.empty_like(like, device="cpu", pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None

    def send(self, values: torch.Tensor, target: torch.Tensor) -> None:
        """Have values copied to the device."""
        self.read().copy_(values)  # not before the last ones have gone
        self._copy(target, self._values)

    def receive(self, source: torch.Tensor) -> None:
        """Have values copied from the device."""
        self._copy(self._values, source)

    def read(self) -> torch.Tensor:
        """Wait for what is being copied."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values

    def _copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
