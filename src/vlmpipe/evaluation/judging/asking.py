"""Questions to a judge until there is a verdict; cases side by side, each by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.evaluation.judging.cache import Reply, ReplyCache
from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.judging.connection import open_client
from vlmpipe.evaluation.judging.endpoint import Endpoint, NoReplyError
from vlmpipe.evaluation.judging.questions import Question
from vlmpipe.evaluation.judging.verdicts import PairVerdict, PointVerdict, parse_verdict

Progress = Callable[[int], None]
"""Told how many cases are done."""

R = TypeVar("R")


@dataclass
class Asked:
    """A question's verdict, or why there is none, and the replies that it took."""

    verdict: PairVerdict | PointVerdict | None = None
    nonsense: str | None = None
    """The judge replied, and never with a verdict."""

    fault: str | None = None
    """The endpoint gave no reply."""

    replies: list[Reply] = field(default_factory=list)


async def ask_until_verdict(endpoint: Endpoint, question: Question) -> Asked:
    """Ask, and ask again with what was wrong, up to `nonsense_retries` times. Never raises for
    what a server does.
    """
    asked = Asked()
    for _ in range(endpoint.config.nonsense_retries + 1):
        try:
            reply = await endpoint.ask(question)
        except NoReplyError as exc:
            asked.fault = str(exc)
            return asked
        asked.replies.append(reply)
        try:
            asked.verdict = parse_verdict(question.form, reply.text)
        except ValueError as exc:
            cut = "cut off at the limit of tokens; " if reply.finish_reason == "length" else ""
            asked.nonsense = f"{cut}{exc}"
            question = question.corrected(reply.text, asked.nonsense)
        else:
            asked.nonsense = None
            return asked
    return asked


def each_case(
    cases: Iterable[Case],
    config: JudgeConfig,
    cache: Path,
    judge: Callable[[Endpoint, Case], Awaitable[R]],
    progress: Progress,
) -> tuple[list[R], Endpoint]:
    """What `judge` makes of each case, in their order, `concurrency` at a time.

    Cases are taken as there is room for them, so that their images are not all in memory.
    """
    try:
        return asyncio.run(_each_case(cases, config, cache, judge, progress))
    except ExceptionGroup as group:
        # What one task raised stops all of them; the others were only cancelled.
        raise group.exceptions[0] from None


async def _each_case(
    cases: Iterable[Case],
    config: JudgeConfig,
    cache: Path,
    judge: Callable[[Endpoint, Case], Awaitable[R]],
    progress: Progress,
) -> tuple[list[R], Endpoint]:
    found: dict[int, R] = {}
    waiting = iter(enumerate(cases))
    async with open_client(config) as client:
        endpoint = Endpoint(config, ReplyCache(cache), client)

        async def work() -> None:
            for place, case in waiting:
                found[place] = await judge(endpoint, case)
                progress(len(found))

        async with asyncio.TaskGroup() as group:
            for _ in range(config.concurrency):
                group.create_task(work())
    return [found[place] for place in sorted(found)], endpoint
