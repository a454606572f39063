"""Whether a prompt is short enough, told without the model: importing one takes seconds, counting none.

In scope: counting tokens as the engine counts those of prompts. Not in scope: where a limit comes from.
"""

from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer


@dataclass(frozen=True)
class PromptLimit:
    """At most so many `tokens` of a tokenizer, given in JSON; can be sent to other processes."""

    tokenizer: str
    tokens: int

    def __call__(self, prompt: str) -> bool:
        """Tell whether a prompt is short enough."""
        counted = _tokenizer(self.tokenizer).encode(prompt, add_special_tokens=False)
        return len(counted) <= self.tokens


@lru_cache(maxsize=1)
def _tokenizer(form: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(form)
    tokenizer.encode_special_tokens = True  # a prompt's are only text
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
