"""The forward passes as functions of tensors: transformers' own model code between our caches.

A prefill only fills the KV cache; logits come from decoding alone, so that there is one shape per pool at
which a token is ever chosen. PrefillPass and DecodePass run as they are, on any device, in buckets;
RaggedPass does the work of both, without padding, and is made to be compiled (`models.compiled`).

In scope: which tensors go in and come out. Not in scope: where they are kept (`models.runner`), attention and
the caches (`models.attention`, `models.ragged`).
"""

import torch
from transformers import PreTrainedModel

from models.attention import DecodeCache, PrefillCache, distances
from models.ragged import RaggedCache


class PrefillPass(torch.nn.Module):
    """Computes the keys and values of prompts."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model: PreTrainedModel = model.base_model

    def forward(self, tokens: torch.Tensor, prefix: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return those of `tokens` (rows × length) behind a shared prefix.

        Keys and values take turns, layer by layer, here and in `prefix` (empty if there is none): each is
        rows × KV heads × tokens × head size, with one row in the prefix.
        """
        start = prefix[0].shape[2] if prefix else 0
        length = tokens.shape[1]
        positions = torch.arange(start, start + length, device=tokens.device)[None]
        cache = PrefillCache(prefix)
        self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=distances(positions, start + length),
            past_key_values=cache,
            use_cache=True,
        )
        return cache.collected


class DecodePass(torch.nn.Module):
    """Feeds a token to every slot of a pool and chooses the next ones."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, pool: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest next token of each slot and its log-probability, in float32.

        `tokens` and `positions` have one entry per slot. `pool` holds keys and values in turn, layer by
        layer, each slots × KV heads × columns × head size, and is written to at the positions.
        """
        out = self.model(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            attention_mask=distances(positions[:, None], pool[0].shape[2]),
            past_key_values=DecodeCache(pool, positions),
            use_cache=True,
        )
        return _likeliest(out.logits[:, -1])


class RaggedPass(torch.nn.Module):
    """Feeds tokens, any number of them to each slot of a pool, and chooses what follows some of them."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, tokens: torch.Tensor, places: torch.Tensor, wanted: torch.Tensor, pool: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the likeliest next token after each of `wanted`, and its log-probability in float32.

        `tokens` has those of a slot one behind the other, `places` (tokens × 2) the slot and the position of
        each; `wanted` are indices into both. `pool` is as in DecodePass.
        """
        out = self.model(
            input_ids=tokens[None],
            position_ids=places[None, :, 1],
            attention_mask=places[None, None],
            past_key_values=RaggedCache(pool, places),
            use_cache=True,
            logits_to_keep=wanted,
        )
        return _likeliest(out.logits[0])


def _likeliest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest token of each row, and its log-probability: NaN where a logit is none."""
    logits = logits.float()
    highest = logits.amax(-1, keepdim=True)
    # argmax, which takes far longer: the first of the highest. A row without one, of NaN, gives some token.
    places = torch.arange(logits.shape[1], device=logits.device, dtype=torch.int32)
    likeliest = torch.where(logits == highest, places, logits.shape[1] - 1).amin(-1)
    return likeliest, -(logits - highest).exp().sum(-1).log()
