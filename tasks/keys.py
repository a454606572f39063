"""Digests and keys: the same bytes in every process, on every machine.

A digest names content, a key names the inputs that determine a result. Both hash a
canonical encoding: JSON with sorted mappings and sets. Nothing here looks at a clock,
an absolute path or the interpreter's hash seed.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DIGEST_BYTES = 16


def digest_bytes(data: bytes) -> str:
    """Digest of content: 128 bits of BLAKE2b, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def digest(value: Any) -> str:
    """Digest of any value that msgspec encodes.

    Raises:
        TypeError: The value has no canonical encoding.
    """
    return digest_bytes(_ENCODER.encode(value))


def key(stage: str, version: int, *inputs: Any) -> str:
    """The key of a stage's result.

    Args:
        stage: The stage's name.
        version: The constant beside the code that determines the output; whoever
            changes the output raises it.
        *inputs: All that the result depends on.
    """
    return f"{stage}:{digest([stage, version, inputs])}"
