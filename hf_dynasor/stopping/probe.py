"""The in-place probe: a suffix is run on the live KV cache, read, and taken back. Knows no rule and no criterion.

Nothing is re-tokenised or computed again. A probe of all rows runs on the cache itself and crops it back; where
only some rows are due, their keys and values alone are copied and the others cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from hf_dynasor.answers import AnswerFormat, extract_answer
from hf_dynasor.answers.keys import check_format
from hf_dynasor.errors import ConfigurationError, name_unknown
from hf_dynasor.stopping.caches import LiveBatch, check_model
from hf_dynasor.stopping.markers import ThinkMarkers, check_tokenizer
from hf_dynasor.stopping.readings import Need, check_at_least
from hf_dynasor.stopping.texts import PROBE_SUFFIXES, find_answer_end, is_closed_answer
from hf_dynasor.stopping.view import ForwardPass, ProbeView

ProbeMode = Literal["verify", "decode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a probe of one row read.

    Args:
        answer: The answer, `None` where there is none.
        text: All that was written after the suffix.
        ids: The same as token ids, the closing token included.
        logprobs: Natural-log probability of each of `ids`.
        entropy: Entropy in nats of the first token after the suffix.
        num_tokens: Tokens that were computed for it: suffix, forced and written ones.
        is_verified: Whether the previous answer was confirmed, so that nothing had to be decoded.
        is_given_up: Whether it was left at an unlikely token: `ids` are then the beginning of an answer, no answer.
    """

    answer: str | None
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropy: float
    num_tokens: int
    is_verified: bool = False
    is_given_up: bool = False

    @property
    def is_closed(self) -> bool:
        """Whether the answer ended by its brace."""
        return is_closed_answer(self.text)


class Prober:
    """Asks rows of a live batch for their answers.

    Args:
        model: A decoder-only transformers model.
        tokenizer: Its tokenizer.
        suffix: A name in `PROBE_SUFFIXES`, or a text that opens a box; `{close}` stands for the end of thinking.
        mode: `"verify"` forces the previous answer through in one forward pass and decodes only if the model
            would have written another; `"decode"` always decodes. Both read the same answers.
        max_answer_tokens: Longest answer; a probe otherwise ends at the unpaired brace, a newline or EOS.
        markers: The model's think markers, for suffixes with `{close}`.
        eos_token_ids: Ids that end an answer; `None` takes the generation config's.
        format: How an answer is found, see `hf_dynasor.answers.extract_answer`.

    Raises:
        ConfigurationError: An unknown suffix or mode, no tokenizer, an encoder-decoder, a limit below 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        suffix: str = "final_answer",
        mode: ProbeMode = "verify",
        max_answer_tokens: int = 32,
        markers: ThinkMarkers | None = None,
        eos_token_ids: Sequence[int] | None = None,
        format: AnswerFormat = "auto",
    ) -> None:
        check_model(model)
        check_tokenizer(tokenizer)
        check_at_least("max_answer_tokens", max_answer_tokens, 1)
        check_format(format)
        if mode not in get_args(ProbeMode):
            raise name_unknown("probe mode", mode, get_args(ProbeMode))
        self._tokenizer, self._forward = tokenizer, ForwardPass(model)
        self._mode, self._limit, self._format = mode, max_answer_tokens, format
        self.suffix = _resolve_suffix(suffix, markers)
        self._suffix_ids: list[int] = tokenizer.encode(self.suffix, add_special_tokens=False)
        self._eos = find_eos_ids(model) if eos_token_ids is None else frozenset(eos_token_ids)

    @torch.no_grad()
    def read(
        self,
        live: LiveBatch,
        rows: Sequence[int],
        *,
        previous: Sequence[ProbeResult | None] | None = None,
        needs: frozenset[Need] = frozenset({Need.ANSWER}),
        floor: float = 0.0,
    ) -> list[ProbeResult]:
        """Probe some rows; the live cache is afterwards as it was.

        Args:
            live: The batch.
            rows: Which rows are due, ascending.
            previous: For each of `rows` what it said last, to be verified.
            needs: Without `Need.ANSWER` only the entropy is read, in one forward pass.
            floor: An answer is given up at its first token that is no likelier than this, in [0, 1): a rule that
                asks for more could not be satisfied by it any more, and the rest need not be paid for.

        Returns:
            One result for each of `rows`.

        Raises:
            UnsupportedError: The cache cannot be put back.
        """
        if not rows:
            return []
        is_verifying = self._mode == "verify" and previous is not None and Need.ANSWER in needs
        told = list(previous) if is_verifying and previous is not None else [None] * len(rows)
        told = [result if result is not None and not result.is_given_up else None for result in told]
        forced = [list(result.ids[:-1]) if result else [] for result in told]
        width = max(map(len, forced))
        with ProbeView(self._forward, live, rows) as view:
            block = [self._suffix_ids + ids + [0] * (width - len(ids)) for ids in forced]
            logprobs = view.extend(block, keep=width + 1)
            entropies = _measure_entropies(logprobs[:, 0])
            results = [_verify(result, logprobs[row]) for row, result in enumerate(told)]
            changed = [row for row, result in enumerate(results) if result is None]
            written = {row: _Written(floor) for row in changed}
            num_kept = min((_count_accepted(told[row], logprobs[row]) for row in changed), default=0)
            if changed and Need.ANSWER in needs:
                view.drop(width - num_kept)
                self._write(view, written, logprobs[:, : num_kept + 1])
        spent = [len(self._suffix_ids) + len(ids) for ids in forced]
        return [
            replace(result, entropy=entropies[row], num_tokens=spent[row])
            if (result := results[row]) is not None
            else self._describe(written[row], entropies[row], spent[row], num_kept)
            for row in range(len(rows))
        ]

    def _write(self, view: ProbeView, written: dict[int, _Written], known: torch.Tensor) -> None:
        """Decode the answers of some rows of a view greedily; what they begin with is in the view already.

        Args:
            view: All rows, right after the suffix and the accepted tokens.
            written: The rows that write.
            known: Log-probabilities after the suffix and after each accepted token, shape (rows, 1 + accepted,
                vocabulary).
        """
        rows = list(written)
        ready, tokens = list(known[rows].unbind(dim=1)), list[int]()
        with view.select(rows) as part:
            for step in range(self._limit):
                if not ready:
                    ready = [part.extend([[token] for token in tokens], keep=1)[:, 0]]
                values, tokens = (item.tolist() for item in ready.pop(0).max(dim=-1))
                for place, row in enumerate(rows):
                    written[row].append(tokens[place], values[place], self._is_complete)
                if step + 1 == self._limit or all(item.is_complete for item in written.values()):
                    break

    def _is_complete(self, ids: list[int]) -> bool:
        return ids[-1] in self._eos or find_answer_end(str(self._tokenizer.decode(ids))) is not None

    def _describe(self, written: _Written, entropy: float, num_tokens: int, num_kept: int) -> ProbeResult:
        said = [token_id for token_id in written.ids if token_id not in self._eos]
        text = str(self._tokenizer.decode(said)) if said else ""
        return ProbeResult(
            answer=extract_answer(text, format=self._format, allow_unclosed=True)
            if text and not written.is_given_up
            else None,
            text=text,
            ids=tuple(written.ids),
            logprobs=tuple(written.logprobs),
            entropy=entropy,
            num_tokens=num_tokens + max(0, len(written.ids) - num_kept),
            is_given_up=written.is_given_up,
        )


class _Written:
    """What a row has written so far; it ends with its answer, or where it becomes too unlikely."""

    def __init__(self, floor: float) -> None:
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.is_complete = self.is_given_up = False
        self._least = math.log(floor) if floor > 0 else -math.inf

    def append(self, token_id: int, logprob: float, is_complete: Callable[[list[int]], bool]) -> None:
        """Take in a token, unless the answer has ended: other rows may still write."""
        if not self.is_complete:
            self.ids.append(token_id)
            self.logprobs.append(logprob)
            self.is_given_up = logprob <= self._least
            self.is_complete = self.is_given_up or is_complete(self.ids)


def pick_suffix(needs: frozenset[Need]) -> str:
    """The suffix that fits a rule: entropies are read after the thought is closed."""
    return "closed" if Need.ENTROPY in needs else "final_answer"


def find_eos_ids(model: Any) -> frozenset[int]:
    """The ids that end a turn: the generation config's, else the model config's."""
    for source in (getattr(model, "generation_config", None), model.config):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return frozenset(ids if isinstance(ids, (list, tuple)) else [ids])
    return frozenset()


def _resolve_suffix(suffix: str, markers: ThinkMarkers | None) -> str:
    text = PROBE_SUFFIXES.get(suffix, suffix)
    if "{" not in text:
        raise ConfigurationError(
            f"Got suffix = {suffix!r} but expected one of {', '.join(sorted(PROBE_SUFFIXES))}, or a text that opens "
            "a box, such as 'So the answer is \\boxed{'."
        )
    return text.replace("\n{close}" if markers is None else "{close}", markers.close_text if markers else "")


def _verify(told: ProbeResult | None, logprobs: torch.Tensor) -> ProbeResult | None:
    """The previous result with its new probabilities, if the model would have written just that again."""
    if told is None or not told.ids:
        return None
    predicted = logprobs[: len(told.ids)]
    ids = torch.tensor(told.ids, device=logprobs.device)
    if not bool((predicted.argmax(dim=-1) == ids).all()):
        return None
    values = predicted.gather(1, ids[:, None])[:, 0].tolist()
    return replace(told, logprobs=tuple(values), is_verified=True)


def _count_accepted(told: ProbeResult | None, logprobs: torch.Tensor) -> int:
    """How many forced tokens of the previous answer, from its first on, the model would have written again."""
    if told is None:
        return 0
    forced = told.ids[:-1]
    for count, (token_id, predicted) in enumerate(
        zip(forced, logprobs.argmax(dim=-1).tolist(), strict=False)
    ):
        if token_id != predicted:
            return count
    return len(forced)


def _measure_entropies(logprobs: torch.Tensor) -> list[float]:
    """Entropy in nats of each row, shape (rows, vocabulary); impossible tokens count nothing."""
    terms = logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)
    return [max(0.0, float(value)) for value in -terms.sum(dim=-1)]
