"""Linear layers that multiply in int8 and add in int32.

    y = (q · Wᵀ) · s · w + b      q = round(x · 127 / m), s = m / 127, m = max |x| of each row x of the input

Weights keep one scale w per output channel, as optimum-quanto stores them; an input's scale is found from
its own row. Sums of integers are exact, so the bits of a row depend on the row alone: not on its batch, its
place or the padding. With AVX-512 VNNI, which multiplies four int8 at a time, such a product takes a quarter
of the time of one in float32, or less. Rounding inputs costs accuracy where a few of them are far larger than
the rest, so that a model computes like this only if its `docmill.json` says that it was measured so.

In scope: the layer, and what processor it is fast and exact on. Not in scope: how weights become int8, and
which layers of a model these take the place of (models.quantize).
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Generic, TypeVar

import torch

_LARGEST = 127  # of int8, used symmetrically
_SMALLEST = 1e-12  # for rows of zeros
# What transformers calls layers of the same input.
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

_Result = TypeVar("_Result")


def is_fast() -> bool:
    """Tell whether products in int8 are fast here, and exact: without AVX-512 VNNI they are neither."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni")) and _is_exact()


@lru_cache(maxsize=1)
def _is_exact() -> bool:
    """Tell whether no sum saturates; kernels can be kept from what the processor has (ONEDNN_MAX_CPU_ISA)."""
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(-_LARGEST, _LARGEST + 1, (64, 4096), dtype=torch.int8, generator=generator)
    largest = torch.full((64, 4096), _LARGEST, dtype=torch.int8)
    pairs = [(some, some), (largest, largest), (-largest, largest), (largest, some)]
    return all(torch.equal(torch._int_mm(a, b.T).long(), a.long() @ b.long().T) for a, b in pairs)


class Shared(Generic[_Result]):
    """What is computed once for layers that read the same input one after each other, as q, k and v do.

    An input must not be changed in place between two layers that read it; one thread at a time.
    """

    def __init__(self) -> None:
        self._of: weakref.ref[torch.Tensor] | None = None
        self._found: _Result | None = None

    def __call__(self, inputs: torch.Tensor, compute: Callable[[torch.Tensor], _Result]) -> _Result:
        """Return `compute(inputs)`, which is kept as long as the input is."""
        if self._of is None or self._of() is not inputs or self._found is None:
            self._found = compute(inputs)
            self._of = weakref.ref(inputs, self._forget)
        return self._found

    def _forget(self, of: weakref.ref[torch.Tensor]) -> None:
        if of is self._of:
            self._of = self._found = None


Rows = Shared[tuple[torch.Tensor, torch.Tensor]]


def quantized_rows(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows × features in int8, and rows × 1 scales."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    largest = rows.abs().amax(dim=1, keepdim=True).clamp_min_(_SMALLEST)
    return (rows * (largest.reciprocal() * _LARGEST)).round_().to(torch.int8), largest / _LARGEST


class Int8Linear(torch.nn.Module):
    """A linear layer on float32 that computes in int8; `rows` is shared with others of its model."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        rows: Rows,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight.clone())  # out of a file it need not lie at whole vectors
        self.register_buffer("scale", scale.float())
        self.register_buffer("bias", None if bias is None else bias.float())
        self._rows = rows

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for `inputs` (… × in_features)."""
        quantized, scale = self._rows(inputs, quantized_rows)
        out = torch._int_mm(quantized, self.weight.T).float().mul_(self.scale).mul_(scale)
        if self.bias is not None:
            out += self.bias
        return out.view(*inputs.shape[:-1], self.out_features)


class PackedLinear(torch.nn.Module):
    """Layers that read the same input as one product, by the kernel; their bits stay as they are."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, layers: Sequence[Int8Linear]) -> None:
        super().__init__()
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.in_features = layers[0].in_features
        self.sizes = [layer.out_features for layer in layers]
        self.register_buffer("weight", _packed(torch.cat([layer.weight for layer in layers])))
        self.register_buffer("scale", torch.cat([layer.scale for layer in layers]))
        self.register_buffer("bias", torch.cat(biases) if biases else None)
        self._shared: Shared[tuple[torch.Tensor, ...]] = Shared()

    def outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the output of each layer for `inputs` (… × in_features)."""
        return self._shared(inputs, self._outputs)

    def _outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = inputs.reshape(-1, self.in_features)
        out = torch.ops.docmill.int8_linear(rows, self.weight, self.scale, self.bias)
        return out.view(*inputs.shape[:-1], sum(self.sizes)).split(self.sizes, dim=-1)

    def layers(self, rows: Rows) -> list[Int8Linear]:
        """Return the layers by themselves."""
        weights = _unpacked(self.weight, sum(self.sizes), self.in_features).split(self.sizes)
        biases = self.bias.split(self.sizes) if self.bias is not None else repeat(None)
        parts = zip(weights, self.scale.split(self.sizes), biases, strict=False)
        return [Int8Linear(weight, scale, bias, rows) for weight, scale, bias in parts]


class Part(torch.nn.Module):
    """One of the layers of a PackedLinear."""

    def __init__(self, product: PackedLinear, number: int) -> None:
        super().__init__()
        self.product, self.number = product, number

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for `inputs` (… × in_features)."""
        return self.product.outputs(inputs)[self.number]


def pack(model: torch.nn.Module) -> None:
    """Have the layers of a model that compute in int8 do so by the kernel, in place.

    `models.kernels` are loaded by then. Raises RuntimeError if they were built without products in int8.
    """
    for parent in list(model.modules()):
        layers = {name: child for name, child in parent.named_children() if isinstance(child, Int8Linear)}
        if layers and not hasattr(torch.ops.docmill, "int8_linear"):
            raise RuntimeError("the compiler does not make use of this processor's VNNI")
        for names in _of_one_input(layers):
            product = PackedLinear([layers[name] for name in names])
            for number, name in enumerate(names):
                setattr(parent, name, Part(product, number))


def unpack(model: torch.nn.Module) -> None:
    """Undo `pack`, in place: passes that are not compiled run as on a machine without a compiler."""
    rows: Rows = Shared()
    for parent in list(model.modules()):
        parts = {name: child for name, child in parent.named_children() if isinstance(child, Part)}
        apart = {product: product.layers(rows) for product in {part.product for part in parts.values()}}
        for name, part in parts.items():
            setattr(parent, name, apart[part.product][part.number])


def _of_one_input(layers: Mapping[str, Int8Linear]) -> Iterator[list[str]]:
    """Group the names of a module's layers by what they read; all of a group have a bias, or none has."""
    left = dict(layers)
    for group in _SAME_INPUT:
        found = [name for name in group if name in left]
        if found and len({left[name].bias is None for name in found}) == 1:
            yield found
            left = {name: layer for name, layer in left.items() if name not in found}
    yield from ([name] for name in left)


def _packed(weight: torch.Tensor) -> torch.Tensor:
    """Return weights (outputs × inputs) as models/kernels/int8_linear.cpp reads them."""
    outputs, inputs = weight.shape
    blocks, tiles = -(-outputs // 32), -(-inputs // 64)
    raised = torch.zeros(blocks * 32, tiles * 64, dtype=torch.uint8)
    raised[:outputs, :inputs] = weight.view(torch.uint8) ^ 128  # as unsigned bytes, 128 more
    # block, tile and column of outputs; tile, line and byte of inputs
    return raised.view(blocks, 2, 16, tiles, 16, 4).permute(0, 3, 1, 4, 2, 5).flatten()


def _unpacked(packed: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
    blocks, tiles = -(-outputs // 32), -(-inputs // 64)
    raised = packed.view(blocks, tiles, 2, 16, 16, 4).permute(0, 2, 4, 1, 3, 5)
    return (raised.reshape(blocks * 32, tiles * 64)[:outputs, :inputs] ^ 128).view(torch.int8)


def from_float(linear: torch.nn.Linear, rows: Shared[tuple[torch.Tensor, torch.Tensor]]) -> Int8Linear:
    """Return a layer with the weights of a float one, rounded."""
    weight = linear.weight.detach().float()
    scale = weight.abs().amax(dim=1).clamp_min(_SMALLEST) / _LARGEST
    return Int8Linear((weight / scale[:, None]).round().to(torch.int8), scale, linear.bias, rows)
