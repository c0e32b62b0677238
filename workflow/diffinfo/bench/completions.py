"""What an OpenAI-compatible endpoint answers: a chat completion as a reply, or what kind of fault it is."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from diffinfo.bench.replies import Reply, Usage
from diffinfo.config.benchmarks import Price

# Marks of published models; the named ones are Sky-T1's, Command A's and Apertus', the unused ones MedGemma's.
_TAG = r"(?:(?:seed:)?think(?:ing)?|thought|reasoning)"
_OPEN = rf"(?:<{_TAG}>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|START_THINKING|inner_prefix)\|>|<unused94>)"
_CLOSE = rf"(?:</{_TAG}>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|END_THINKING|inner_suffix)\|>|<unused95>)"
_BLOCK = re.compile(rf"{_OPEN}.*?{_CLOSE}", re.S | re.I)
_END = re.compile(rf"{_CLOSE}|<\|channel\|>final<\|message\|>", re.I)  # the second: gpt-oss, not decoded
_UNFINISHED = re.compile(rf"^[ \t]*(?:{_OPEN}|<\|channel\|>analysis).*", re.S | re.I | re.M)
# Tags that prompts ask for: thoughts, where a judgment stands beside them.
_ASIDE = re.compile(r"<(scratchpad|analysis|reflection)>.*?</\1>", re.S | re.I)
_JUDGMENT = re.compile(r"""\[\[[AB]+[<>=]+[AB]+\]\]|["'](?:score|choice)["']\s*:""", re.I)
_NAMED = re.compile(rf"""(?:(?<=\S )|(?<=[`'"(])){_CLOSE}(?=[ `'").,;:])""", re.I)  # a mark in the midst of a sentence
_BROKEN_OFF = ("error", "abort", "aborted", "cancelled")  # by the server, in the middle
_FILTERED = {"content_filter", "content-filter", "safety", "refusal", "prohibited_content", "recitation", "blocklist"}

# Endpoints have no common list of error codes: these are the words of those in use.
_CONTENT = re.compile(
    r"content.?(filter|management|policy|moderat)|moderation|flagged|responsible.?ai|data_inspection|safety (system|filter)"
)
_CONTEXT = re.compile(
    r"context.?(length|window|size)|too many (input |prompt )?tokens"
    r"|(prompt|input|request|message)s?( is| are)? too (long|large)"
    r"|above_max_length|maximum (context|input|number of (input )?tokens)"
)
_HOPELESS = re.compile(
    r"insufficient.?(quota|balance|credit|funds)|exceeded your current quota|billing"
    r"|invalid.?api.?key|api key (not valid|is invalid|expired)"
    r"|account.{0,20}(deactivated|disabled|suspended)"
    r"|model.?not.?found|model .{0,80}(does not exist|not found|decommissioned)|invalid model|unknown model"
    r"|unsupported.?(parameter|value)|unknown.?parameter|unrecognized request argument|extra inputs are not permitted"
    r"|(is )?not supported (with|by) this model"
)


@dataclass(frozen=True)
class Fault:
    """Why there is no completion.

    Attributes:
        kind: "refused": this prompt, for good; "hopeless": every prompt; "limited" and "transient": try again.
        reason: a word or two, by which faults are counted.
        said: what the endpoint said.
        wait: seconds that it asks to wait.
        billed: whether it may be paid for all the same.
    """

    kind: Literal["refused", "hopeless", "limited", "transient"]
    reason: str
    said: str = ""
    wait: float | None = None
    billed: bool = False


def read(status: int, headers: Mapping[str, str], content: bytes) -> dict[str, Any] | Fault:
    """A response's chat completion, or the fault that it is."""
    text = content.decode("utf-8-sig", errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list) and len(value) == 1:  # Gemini's errors
        value = value[0]
    body = value if isinstance(value, dict) else {}
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    ended = str(choice.get("finish_reason")).casefold()
    error = body.get("error") or choice.get("error") or (ended if ended in _BROKEN_OFF else None)
    if status < 300 and choice and not error:
        return body
    facts = error if isinstance(error, dict) else body
    said = (
        error if isinstance(error, str) else facts.get("message") or body.get("message") or body.get("detail") or text
    )
    said = " ".join(re.sub(r"<[^>]*>", " ", str(said)).split())[:300]
    if status < 300:  # a fault in the clothes of a success, as OpenRouter's are
        if not error:
            return Fault("transient", "no chat completion", said, billed=True)
        code = str(facts.get("code") or facts.get("status") or "")
        status = int(code) if re.fullmatch(r"[45]\d\d", code) else 500
    words = f"{facts.get('code')} {facts.get('type')} {json.dumps(facts.get('metadata'))} {said}".lower()
    reason, wait = f"HTTP {status}", _wait(headers)
    if _CONTEXT.search(words):
        return Fault("refused", "context length", said, wait)
    if status in (400, 403, 422, 451, 500) and _CONTENT.search(words):
        return Fault("refused", "content filter", said, wait)
    if status in (401, 402, 403, 404, 405) or (status < 500 and _HOPELESS.search(words)):
        return Fault("hopeless", reason, said)
    if status == 429:
        return Fault("limited", reason, said, wait)
    if status >= 500 or status < 400 or status in (408, 409, 425, 499):
        return Fault("transient", reason, said, wait)
    return Fault("refused", reason, said, wait)


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: a number, or a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name, "")
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def reply(completion: Mapping[str, Any], dollars: float | None) -> Reply:
    """A completion's text as a reply, without reasoning, and with what it cost."""
    choice = completion["choices"][0]
    message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    text = without_reasoning("".join(map(_text, parts)))
    ended = choice.get("finish_reason")
    ended = ended if isinstance(ended, str) else ""
    unjudged = "content filter" if ended.casefold() in _FILTERED else ""
    if not text.strip() and message.get("refusal"):
        unjudged = "content filter"
    read, cached, written = tokens(completion)
    return Reply(text, ended, unjudged, (Usage(read, cached, written, dollars),))


def _text(part: Any) -> str:
    """The text of a part of a message's content; reasoning, images and calls have none."""
    if isinstance(part, dict) and not {"type", "text"} & set(part):
        part = json.dumps(part)  # a grade that a server has parsed already
    if isinstance(part, dict):
        part = part.get("text") if part.get("type", "text") in ("text", "output_text") else ""
    # half a surrogate pair fits no table
    return part.encode("utf-8", "replace").decode() if isinstance(part, str) else ""


def without_reasoning(text: str) -> str:
    """What a model says after it has thought: its verdict is not among its thoughts.

    Chat templates that open the block themselves leave only its end in the text; a block that does not end was cut. An end that
    a sentence names behind the judgment, such as a stray one in an answer, is none.
    """
    if "<" not in text and "◁" not in text and "THINK]" not in text.upper():
        return text  # as most do: what follows is slow
    text = _BLOCK.sub("", text)
    if _JUDGMENT.search(beside := _ASIDE.sub("", text)):
        text = beside
    start = 0
    for end in _END.finditer(text):
        named = _NAMED.match(text, end.start()) and _JUDGMENT.search(text, start, end.start())
        if not named or _JUDGMENT.search(text, end.end()):
            start = end.end()
    return _UNFINISHED.sub("", text[start:])


def tokens(completion: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Tokens read, those of them from the endpoint's cache, and tokens written; None where it does not say."""
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    cached = details.get("cached_tokens", usage.get("prompt_cache_hit_tokens"))
    return _count(usage.get("prompt_tokens")), _count(cached), _count(usage.get("completion_tokens"))


def _count(value: Any) -> int | None:
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) if whole and 0 <= value < 2**53 else None


def dollars(completion: Mapping[str, Any], price: Price | None) -> float | None:
    """What a completion cost: by the price, else what the endpoint says (OpenRouter), else None."""
    read, cached, written = tokens(completion)
    if price is None:
        usage = completion.get("usage")
        cost = usage.get("cost") if isinstance(usage, dict) else None
        return float(cost) if isinstance(cost, (int, float)) and 0 <= cost < math.inf else None
    if read is None or written is None:
        return None
    cached = min(cached or 0, read)
    cheap = price.read if price.cached is None else price.cached
    return ((read - cached) * price.read + cached * cheap + written * price.written) / 1e6
