"""Linear layers that multiply in int8 and add in int32.

    y = (q · Wᵀ) · s · w + b        q = round(x / s), s = max |x| / 127, for each row x of the input

Weights keep one scale w per output channel, as optimum-quanto stores them; an input's scale is found from
its own row. Sums of integers are exact, so the bits of a row depend on the row alone: not on its batch, its
place or the padding. With AVX-512 VNNI, which multiplies four int8 at a time, such a product takes a quarter
of the time of one in float32, or less. Rounding inputs costs accuracy where a few of them are far larger than
the rest, so that a model computes like this only if its `docmill.json` says that it was measured so.

In scope: the layer, and what processor it is fast and exact on. Not in scope: how weights become int8, and
which layers of a model these take the place of (models.quantize).
"""

import weakref
from functools import lru_cache

import torch

_LARGEST = 127  # of int8, used symmetrically
_SMALLEST_SCALE = 1e-12  # for rows of zeros


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


class Rows:
    """Quantizes inputs; layers that read the same one after each other (q, k and v) share the result.

    An input must not be changed in place between two layers that read it; one thread at a time.
    """

    def __init__(self) -> None:
        self._input: weakref.ref[torch.Tensor] | None = None
        self._found: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))

    def __call__(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows × features in int8, and rows × 1 scales."""
        if self._input is None or self._input() is not inputs:
            rows = inputs.reshape(-1, inputs.shape[-1])
            scale = rows.abs().amax(dim=1, keepdim=True).clamp_min_(_SMALLEST_SCALE).div_(_LARGEST)
            self._found = (rows / scale).round_().to(torch.int8), scale
            self._input = weakref.ref(inputs)
        return self._found


class Int8Linear(torch.nn.Module):
    """A linear layer on float32 that computes in int8."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, rows: Rows
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("weight", weight.clone())  # out of a file it need not lie at whole vectors
        self.register_buffer("scale", scale.float())
        self.register_buffer("bias", None if bias is None else bias.float())
        self._rows = rows

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the layer's output for `inputs` (… × in_features)."""
        quantized, scale = self._rows(inputs)
        out = torch._int_mm(quantized, self.weight.T).float().mul_(self.scale).mul_(scale)
        if self.bias is not None:
            out += self.bias
        return out.view(*inputs.shape[:-1], self.out_features)


def from_float(linear: torch.nn.Linear, rows: Rows) -> Int8Linear:
    """Return a layer with the weights of a float one, rounded."""
    weight = linear.weight.detach().float()
    scale = weight.abs().amax(dim=1).clamp_min(_SMALLEST_SCALE) / _LARGEST
    return Int8Linear((weight / scale[:, None]).round().to(torch.int8), scale, linear.bias, rows)
