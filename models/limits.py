"""Whether a prompt is short enough, told without the model: importing one takes seconds, counting none.

In scope: counting tokens as the engine counts those of prompts. Not in scope: where a limit comes from.
"""

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

from tokenizers import Tokenizer


@dataclass(frozen=True)
class PromptLimit:
    """At most so many `tokens` of a tokenizer, given in JSON; can be sent to other processes."""

    tokenizer: str = field(repr=False, compare=False)  # megabytes: its digest tells it apart
    tokens: int
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.tokenizer.encode()).hexdigest())

    def __call__(self, prompt: str) -> bool:
        """Tell whether a prompt is short enough."""
        return len(_tokenizer(self).encode(prompt, add_special_tokens=False)) <= self.tokens


@lru_cache(maxsize=1)
def _tokenizer(limit: PromptLimit) -> Tokenizer:
    tokenizer = Tokenizer.from_str(limit.tokenizer)
    tokenizer.encode_special_tokens = True  # a prompt's are only text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
