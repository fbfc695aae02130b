"""An engine whose model writes one character a token: what comes next is a function of all that stands before."""

from __future__ import annotations

import zlib
from collections import Counter

from hf_dynasor.answers.elicitation import find_answer_end
from hf_dynasor.core import Completion, FinishReason, Generate, TokenIds, Usage
from hf_dynasor.engine import Ability
from hf_dynasor.errors import EngineError

EOS, CLOSE = 0, 1
ALPHABET = "ab12 .\n{}x"


def write(token_id: int) -> str:
    return {EOS: "", CLOSE: "</think>"}.get(token_id, chr(token_id))


class CharEngine:
    """Deterministic and stateless.

    Args:
        eos_every: How rarely a turn ends: about one token in so many; 0 for never.
        close_every: How rarely a thought closes, likewise.
        answers: What it writes into an opened box, from the context; by default one of a few numbers.
    """

    def __init__(self, *, eos_every: int = 0, close_every: int = 0, answers=None) -> None:
        self.eos_every, self.close_every, self.answers = eos_every, close_every, answers
        self.ended: Counter = Counter()
        self.requests: list[Generate] = []

    name = "characters"
    abilities = frozenset(Ability)

    def submit(self, requests, sink) -> None:
        for request in requests:
            self.requests.append(request)
            self.ended[request.key] += 1
            sink(self.complete(request))

    def cancel(self, keys) -> None:
        """Everything has ended already."""

    def check_health(self) -> None:
        if self.requests is None:
            raise EngineError("closed")

    def close(self) -> None:
        """Nothing to free."""

    def read_context(self, prompt) -> list[int]:
        ids: list[int] = []
        for segment in prompt.segments:
            if isinstance(segment, TokenIds):
                ids += segment.ids
            else:
                text = segment if isinstance(segment, str) else segment.messages[-1].content
                ids += [ord(sign) for sign in text]
        return ids

    def complete(self, request: Generate) -> Completion:
        context = self.read_context(request.prompt)
        num_prompt, new = len(context), []
        text, reason = "", FinishReason.LENGTH
        while len(new) < request.sampling.max_new_tokens:
            token_id = self.choose(context)
            context.append(token_id)
            new.append(token_id)
            if token_id == EOS:
                reason = FinishReason.EOS
                break
            text += write(token_id)
            cuts = [place for stop in request.sampling.stop if (place := text.find(stop)) >= 0]
            if cuts:
                text, reason = text[: min(cuts)], FinishReason.STOP
                break
        usage = {"probe" if request.is_probe else "sampled": len(new)}
        logprobs = (-0.1,) * len(new) if request.sampling.logprobs else None
        return Completion(
            key=request.key,
            text=text,
            token_ids=tuple(new),
            finish_reason=reason,
            usage=Usage(prompt=num_prompt, **usage),
            logprobs=logprobs,
            offsets=tuple(min(i, len(text)) for i in range(len(new))) if logprobs else None,
        )

    def choose(self, context: list[int]) -> int:
        text = "".join(map(write, context))
        opened = text.rfind("boxed{")
        if opened >= 0 and find_answer_end(text[opened + len("boxed{") :]) is None:
            said = text[opened + len("boxed{") :]
            answer = (
                self.answers(text[:opened]) if self.answers else str(zlib.crc32(text[:opened].encode()) % 3)
            )
            return ord("}") if said == answer or not answer.startswith(said) else ord(answer[len(said)])
        number = zlib.crc32(repr(context).encode())
        if self.eos_every and number % self.eos_every == 0:
            return EOS
        if self.close_every and number // 7 % self.close_every == 0 and CLOSE not in context:
            return CLOSE
        return ord(ALPHABET[number // 1009 % len(ALPHABET)])

    def generate(self, prompt, limit: int) -> tuple[int, ...]:
        """What one plain generation of at most `limit` tokens says."""
        context = self.read_context(prompt)
        start = len(context)
        while len(context) - start < limit and (len(context) == start or context[-1] != EOS):
            context.append(self.choose(context))
        return tuple(context[start:])
