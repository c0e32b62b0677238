"""An OpenAI-compatible endpoint as a judge: what it is sent, and what it has answered before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from diffinfo.bench.batch import Batches
from diffinfo.bench.payment import Payment
from diffinfo.bench.replies import Reply, Request
from diffinfo.bench.server import Server
from diffinfo.bench.store import Store
from diffinfo.cli import UserError, log
from diffinfo.config.benchmarks import Judge as JudgeConfig
from diffinfo.tables import artifacts

PRESETS: dict[str, dict[str, Any]] = {  # merged over the body, as a judge's ``request`` is after it
    "chat": {},
    "open": {"response_format": None},
    "reasoning": {"temperature": None, "response_format": None},
}


class Endpoint:
    """An endpoint at temperature 0, unless its preset or request says otherwise.

    The key is read from the environment variable that the configuration names, and only when something must be paid.
    """

    def __init__(self, judge: JudgeConfig, cache: Path, job: str, folder: Path | None = None) -> None:
        """``folder``: of the model, where the judge is served here."""
        self._folder = folder
        self._server: Server | None = None
        if folder is not None:  # another model of the same name has other replies
            judge = judge.model_copy(update={"model": f"{judge.model}-{artifacts.digest(folder)}"})
        self.judge = judge
        facts = {"kind": "openai", "model": judge.model, "base_url": judge.base_url}
        older = artifacts.digest(facts | {"max_tokens": judge.max_tokens, "temperature": 0.0})
        self.store = Store(cache, artifacts.digest(judge.model), artifacts.digest(job), older)
        self._asked, self._unjudged = 0, 0  # of the first round of questions, of all rounds

    def ask(self, requests: Sequence[Request], what: str) -> list[Reply]:
        """See Judge. A request that the endpoint refuses, or fails to answer, has a reply that says why.

        Raises:
            UserError: when there is no key, the endpoint is down or refuses whatever it is sent, the budget is spent, or
                more requests failed than may be unjudged; what was paid stays in the store.
        """
        sent = [body(self.judge, request) for request in requests]
        keys = [artifacts.digest(parameters) for parameters in sent]
        older = [artifacts.digest(self.judge.base_url, parameters) for parameters in sent]  # as keys once were
        found = self.store.find({*keys, *older})
        replies = {key: found[name] for name, key in zip([*older, *keys], [*keys, *keys], strict=True) if name in found}
        unpaid = {key: parameters for key, parameters in zip(keys, sent, strict=True) if key not in replies}
        self._asked = max(self._asked, len(requests))
        if replies:
            log.info("%s: %d of %d replies were paid before", what, len(set(keys)) - len(unpaid), len(set(keys)))
        if unpaid:
            allowed = int(self.judge.max_unjudged * self._asked) - self._unjudged
            payment = (Batches if self.judge.batch else Payment)(self._reached(), self.store, self._secret(), allowed)
            with suppress(asyncio.CancelledError):  # by a second signal
                asyncio.run(payment.pay(unpaid, what, len(replies)))
            if payment.interrupted:
                raise KeyboardInterrupt
            if payment.fault and self._server and self._server.ended:
                raise UserError(f"the server of {self.judge.model} ended: {self._server.last_words()}")
            if payment.fault:
                raise UserError(
                    f"{payment.fault.rstrip('.')}. What was paid is kept in {self.store.folder}: run again to resume there."
                )
            self._unjudged += sum(bool(reply.unjudged) for reply in payment.replies.values())
            replies |= payment.replies
        if cut := sum(reply.cut for reply in replies.values()):
            log.warning(
                "%s: %d of %d replies were cut, so their verdict or score does not count: raise the judge's max_tokens "
                "(%d), which pays for all of them again",
                what, cut, len(replies), self.judge.max_tokens,
            )  # fmt: skip
        return [replies[key] for key in keys]

    def _reached(self) -> JudgeConfig:
        """The judge at its address; one that is served here is started first."""
        if self._folder is None:
            return self.judge
        self._server = self._server or Server(
            self.judge, self._folder, self.judge.model, self.store.file.with_suffix(".log")
        )
        return self.judge.model_copy(update={"base_url": f"{self._server.address}/v1"})

    def _secret(self) -> str:
        if self._server:
            return self._server.secret
        secret = os.environ.get(self.judge.api_key_env, "").strip()
        where = f"the environment variable {self.judge.api_key_env}"
        if not secret:
            raise UserError(
                f"{where} is not set: it must hold the key of {self.judge.base_url} (any word, where the endpoint asks for "
                "none)."
            )
        if not (secret.isascii() and secret.isprintable()):
            raise UserError(f"{where} holds characters that no key has: copy the key of {self.judge.base_url} again.")
        return secret


def body(judge: JudgeConfig, request: Request) -> dict[str, Any]:
    """What is sent: the judge's preset and its own ``request`` merged over the published procedure's parameters."""
    limit = "max_completion_tokens" if judge.preset == "reasoning" else "max_tokens"
    parameters: dict[str, Any] = {"model": judge.model, "messages": request.conversation, "temperature": 0.0}
    parameters |= {limit: judge.max_tokens}
    parameters |= {"response_format": {"type": "json_object"}} if request.form != "verdict" else {}
    parameters |= PRESETS[judge.preset] | judge.request
    return {key: value for key, value in parameters.items() if value is not None}
