"""Requests by the Batch API: a file of them, one batch, and its results within a day, at half the price."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tqdm import tqdm

from diffinfo.bench import completions
from diffinfo.bench.completions import Fault
from diffinfo.bench.payment import Payment, fault
from diffinfo.bench.purse import Fare
from diffinfo.cli import log

_MOST, _LARGEST = 10_000, 50_000_000  # requests and bytes of a batch: endpoints take 50,000 and 100 MB at least
_ROUNDS = {"refused": 2, "transient": 3, "limited": 3}  # batches that a request may be in
_FIRST, _LONGEST = 1.0, 60.0  # seconds between two looks at a batch
_ENDED = ("completed", "expired", "cancelled")

Bodies = dict[str, dict[str, Any]]


class Batches(Payment):
    """A round of requests in batches, one after the other.

    What a batch holds is stored before it is created, under a name that it has at the endpoint too: a job that ends in between
    finds it there, and waits for it rather than pay for another.
    """

    workers = 1

    async def _work(self, client: Any, queue: Iterator[tuple[str, dict[str, Any]]], shown: tqdm[Any]) -> None:
        self._client, self._shown = client, shown
        self._bodies, self._rounds = dict(queue), Counter[str]()
        while self._bodies:
            earlier = next(
                (name for name, row in self.store.batches.items() if self._bodies.keys() & row["keys"]), None
            )
            name, lines = (earlier, b"") if earlier else self._put_down()
            batch = await (self._call(self._find, name) if earlier else self._create(name, lines))
            self._take(await self._results(batch, name) if batch else {})
            self.store.settle(name)

    def _put_down(self) -> tuple[str, bytes]:
        """As many requests as fit one batch and the budget, noted in the store: the batch's name and file."""
        dollars, requests = self._purse.left()
        keys: list[str] = []
        lines, size, cost = [], 0, 0.0
        for key, body in self._bodies.items():
            line = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            fare = self._purse.fare(body)
            if size > _LARGEST or len(keys) + 1 > min(requests, _MOST) or cost + fare.dollars > dollars:
                break
            keys.append(key)
            lines.append(json.dumps(line).encode() + b"\n")
            size, cost = size + len(lines[-1]), cost + fare.dollars
        if not keys:
            self._end(self._purse.empty(self._name, fare, self._left))
        name = uuid.uuid4().hex
        self.store.add(batch=name, keys=keys, at_most=cost, requests=len(keys), time=time.time())
        self.store.refresh()
        return name, b"".join(lines)

    async def _create(self, name: str, lines: bytes) -> Any:
        tried = False

        async def create() -> Any:
            nonlocal tried
            if tried and (found := await self._find(name)):  # an attempt whose answer was lost
                return found
            tried = True
            file = await self._client.files.create(file=(f"{name}.jsonl", lines), purpose="batch")
            return await self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"diffinfo": name},
            )

        return await self._call(create)

    async def _find(self, name: str) -> Any:
        """The batch of this name at the endpoint, which lists the latest first; None where it was never created."""
        since = self.store.batches[name]["time"] - 3600  # clocks differ
        async for batch in self._client.batches.list(limit=100):
            if (batch.metadata or {}).get("diffinfo") == name:
                return batch
            if batch.created_at < since:
                break
        return None

    async def _results(self, batch: Any, name: str) -> dict[str, dict[str, Any] | Fault]:
        """Completions and faults of a batch, by key, once it has ended."""
        wait = _FIRST
        while batch.status not in _ENDED:
            if batch.status == "failed":
                errors = [f"{error.code} {error.message}" for error in (batch.errors and batch.errors.data) or []]
                self.store.settle(name)
                self._end(f"{self._name} refuses batch {batch.id}: {errors[0] if errors else 'it does not say why'}")
            counts = batch.request_counts
            self._state = f"batch {batch.status}" + (f", {counts.completed} of {counts.total}" if counts else "")
            await self._pause(wait)
            wait = min(_LONGEST, 1.5 * wait)
            batch = await self._call(self._client.batches.retrieve, batch.id)
        log.info("batch %s: %s", batch.id, batch.status)
        lost = Fault("transient", f"batch {batch.status}", "it holds no result of the request")
        found: dict[str, dict[str, Any] | Fault] = dict.fromkeys(self.store.batches[name]["keys"], lost)
        for file in filter(None, (batch.error_file_id, batch.output_file_id)):
            content = await self._call(self._client.files.content, file)
            for line in content.content.splitlines():
                try:
                    row = json.loads(line)
                    key, said = row["custom_id"], row.get("response") or {"status_code": 500, "body": row}
                    found[key] = completions.read(int(said["status_code"]), {}, json.dumps(said["body"]).encode())
                except (ValueError, LookupError, TypeError):
                    log.warning("batch %s: a line of its results cannot be read", batch.id)
        return found

    def _take(self, found: dict[str, dict[str, Any] | Fault]) -> None:
        """Store completions, also those that nobody asks for any longer; what has none is asked again, or unjudged."""
        known = self.store.find(found)
        for key, result in found.items():
            body = self._bodies.get(key)
            if isinstance(result, dict):
                fare = self._purse.fare(body) if body else Fare(0, 0, 0)
                reply = known[key] if key in known else self._purse.pay(fare, key, result)[0]
            elif body is None:
                continue
            else:
                self._rounds[key] += 1
                if result.kind == "hopeless":
                    self._refuse(result)
                if self._rounds[key] < _ROUNDS[result.kind]:
                    continue
                reply = self._unjudged(result)
            if body:
                del self._bodies[key]
                self.replies[key] = reply
                self._shown.n += 1
                self._left -= 1

    async def _call(self, request: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """The answer to a request of the API itself, which is made again until the judge's patience ends."""
        import httpx2
        import openai

        since, wait = time.monotonic(), _FIRST
        while True:
            try:
                return await request(*arguments)
            except (openai.APIError, httpx2.HTTPError, TimeoutError) as error:
                found = fault(error, self.judge)
                self._state = f"last fault {found.reason}"
                if found.kind in ("hopeless", "refused"):
                    self._refuse(found)
                if time.monotonic() - since > self.judge.patience:
                    self._end(f"{self._name} gives no batch: {found.reason}: {self._plain(found)}")
                await self._pause(found.wait or wait)
                wait = min(_LONGEST, 2 * wait)
