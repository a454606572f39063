"""Activation functions whose bits do not depend on where in a tensor an element lies.

On a CPU torch splits an element-wise operation evenly among its threads and computes what is left over at
the end of a part with other code than the vectors before it, which differs in the last bit for SiLU, the
tanh form of GELU and the sigmoid. With an uneven split that end falls into the middle of a row, and the
row's bits would depend on its slot. `settle` makes every part a whole number of vectors.

In scope: cutting a tensor so that torch's own split is even. Not in scope: matrix products, normalization and
attention, which were measured not to depend on the place of a row.
"""

import torch
from transformers.activations import ACT2CLS

GRAIN = 32768  # at::internal::GRAIN_SIZE: torch takes one more thread for every so many elements ...
UNSPLIT = 16384  # ... but for GELU all of them, above this
VECTORS = 64  # elements per turn of the vectorized loop: two AVX-512 registers of bfloat16

_ACTIVATIONS = tuple({entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()})


class PlaceIndependent(torch.nn.Module):
    """An element-wise activation, computed in pieces that torch splits at whole vectors."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the activation of every element; any shape."""
        if torch.compiler.is_exporting() or inputs.device.type != "cpu":
            return self.activation(inputs)  # compiled loops have no other code for what is left over
        sizes = even_pieces(inputs.numel(), torch.get_num_threads())
        if len(sizes) == 1:
            return self.activation(inputs)
        pieces = inputs.reshape(-1).split(sizes)
        return torch.cat([self.activation(piece) for piece in pieces]).view_as(inputs)


def settle(model: torch.nn.Module) -> None:
    """Make the activations of a model place-independent, in place; doing so again changes nothing."""
    for parent in list(model.modules()):
        if isinstance(parent, PlaceIndependent):
            continue
        for name, child in list(parent.named_children()):
            if isinstance(child, _ACTIVATIONS):
                setattr(parent, name, PlaceIndependent(child))


def even_pieces(elements: int, threads: int) -> list[int]:
    """Return the sizes of pieces that torch, with so many threads, splits at whole vectors or not at all.

    `elements` is expected to be a whole number of vectors, as it is at the shapes of a bucket table.
    """
    split = threads * VECTORS
    used = min(threads, -(-elements // GRAIN))
    if elements <= UNSPLIT or elements % split == elements % (used * VECTORS) == 0:
        return [elements]
    if elements >= threads * GRAIN:
        return [elements - elements % split, elements % split]
    rest = elements % UNSPLIT
    return [UNSPLIT] * (elements // UNSPLIT) + [rest] * (rest > 0)
