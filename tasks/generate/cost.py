"""What it will cost to have a model write what is missing, as far as that can be known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from tasks.generate.answers import Answers

if TYPE_CHECKING:
    from tasks.generate.writer import Writer


class Cost(Struct, frozen=True):
    """Tokens and time of the texts that are missing.

    `waiting` are requests whose prompts are made of others' answers; they are in no other figure but
    `seconds`, where they count as much as the rest do on average. `written` and `seconds` go by what tuning
    measured, and are None for a model that was not tuned on this machine.
    """

    requests: int
    waiting: int
    read: int
    written_at_most: int
    written: int | None = None
    seconds: float | None = None


def cost_of(answers: Answers, writer: Writer) -> Cost:
    """The cost of all that has no answer."""
    distinct = {rendered.key: rendered for rendered in answers.missing}.values()
    waiting = sum(len(names) for names in answers.waiting.values())
    frames = [frame for rendered in distinct for frame in rendered.wanted.asked.frames]
    read, at_most = sum(map(writer.tokens_read, distinct)), sum(f.limit for f in frames)
    if writer.speed is None or not distinct:
        return Cost(len(distinct), waiting, read, at_most)
    written = min(at_most, round(len(frames) * writer.speed.output_tokens_per_request))
    seconds = read / writer.speed.prompt_tokens_per_second + written / writer.speed.output_tokens_per_second
    share = (len(distinct) + waiting) / len(distinct)
    return Cost(len(distinct), waiting, read, at_most, written, seconds * share)
