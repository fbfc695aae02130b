"""`/v1/completions`: texts or token ids in, continuations out, whole or streamed, the prompt echoed where asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_dynasor.core import RequestKey, SamplingParams
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http import params, shapes, sse, wire
from hf_dynasor.serving.http.branches import Branch, PlainBranch, WatchedBranch
from hf_dynasor.serving.http.bridge import check_time
from hf_dynasor.serving.http.chat import check_stream_options
from hf_dynasor.serving.http.completion_stream import stream_completion
from hf_dynasor.serving.http.errors import bad_request
from hf_dynasor.serving.http.generation import Choice, Update, run_choices, sum_usage
from hf_dynasor.serving.http.reasoning import ReasoningSplitter
from hf_dynasor.serving.http.settings import Tenant
from hf_dynasor.serving.http.state import ServerState, make_id
from hf_dynasor.serving.http.terms import ServingTerms, read_terms
from hf_dynasor.serving.prompt_logprobs import PromptLogprobs, read_prompt_logprobs, split_prompts
from hf_dynasor.stopping import Phase, StoppingRule, WatchSettings


@dataclass(slots=True, kw_only=True)
class CompletionRun:
    """One completions request on its way: `n` choices for each prompt, in the order of the prompts."""

    body: wire.CompletionRequest
    state: ServerState
    id: str
    created: int
    prompts: list[tuple[int, ...]]
    choices: list[Choice]
    echoes: list[str]
    terms: ServingTerms
    readings: list[PromptLogprobs] = field(default_factory=list)

    async def run(self) -> AsyncGenerator[Update, None]:
        """Read the prompts where their log-probabilities are wanted, then generate."""
        units = max(1, len(self.choices))
        async with self.state.open_channel(units, self.terms) as channel:
            channel.announce(self.id, self.terms.plan("completion", units, self.state.clock.now()))
            if self.body.echo and self.body.logprobs is not None:
                await self._read_prompts()
            if self.choices:
                async for update in run_choices(
                    channel,
                    self.choices,
                    clock=self.state.clock,
                    timeout_s=self.state.settings.request_timeout_s,
                ):
                    yield update

    async def _read_prompts(self) -> None:
        """Batch by batch; one request at a time reads, since a forward takes all of the machine anyway."""
        state, limit = self.state, self.state.settings.request_timeout_s
        deadline = state.clock.now() + limit
        found: dict[int, PromptLogprobs] = {}
        for batch in split_prompts([len(ids) for ids in self.prompts], state.model.vocabulary_size):
            prompts = [self.prompts[place] for place in batch]
            async with state.reading:
                check_time(state.clock.now(), deadline, limit)
                read = partial(
                    read_prompt_logprobs, state.model.loaded, prompts, num_top=self.body.logprobs or 0
                )
                found |= zip(batch, await asyncio.to_thread(read), strict=True)
        self.readings += [found[place] for place in range(len(self.prompts))]

    def shape_envelope(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """An answer, or a chunk of one."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.state.model.name,
            "choices": choices,
            **more,
        }

    def name_stop(self, choice: Choice) -> str | int | None:
        """What it stopped at, where the client is to know."""
        body = self.body
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        return shapes.name_stop(
            choice.completion, stop, body.stop_token_ids or [], self.state.model.tokenizer
        )

    def shape_usage(self) -> dict[str, Any]:
        """The token account."""
        return shapes.shape_usage(sum_usage(self.choices), num_prompt=sum(map(len, self.prompts)))


async def answer_completion(
    body: wire.CompletionRequest, state: ServerState, *, now: int, tenant: Tenant | None = None
) -> Response:
    """A completions request.

    Raises:
        ApiError: The request cannot be honoured.
    """
    run = prepare_completion(body, state, now=now, tenant=tenant)
    if body.stream:
        updates = run.run()
        return await sse.respond(stream_completion(run, updates), close=updates.aclose)
    async for _ in run.run():
        pass
    return JSONResponse(_shape_whole(run))


def prepare_completion(
    body: wire.CompletionRequest, state: ServerState, *, now: int, tenant: Tenant | None = None
) -> CompletionRun:
    """Check everything and make the choices; nothing runs yet."""
    state.model.check_name(body.model)
    prompts = params.list_prompts(body.prompt)
    params.check_counts(state.settings, body, len(prompts))
    check_stream_options(body)
    _check_combinations(body)
    encoded = [state.model.encode(prompt) for prompt in prompts]
    name = make_id("cmpl")
    rule = params.build_rule(body)
    choices = []
    for place, prompt_ids in enumerate(encoded if body.max_tokens != 0 else []):
        sampling = _build_sampling(body, state, prompt_ids)
        for offset in range(body.n):
            index = place * body.n + offset
            branch = _make_branch(
                body, state, name, index, prompt_ids, params.seed_choice(sampling, index), rule
            )
            choices.append(Choice(index, branch, ReasoningSplitter(None, Phase.AFTER)))
    tokenizer = state.model.tokenizer
    echoes = [_decode(tokenizer, ids) if body.echo else "" for ids in encoded]
    return CompletionRun(
        body=body,
        state=state,
        id=name,
        created=now,
        prompts=encoded,
        choices=choices,
        echoes=echoes,
        terms=read_terms(body, tenant, state.clock.now()),
    )


def _check_combinations(body: wire.CompletionRequest) -> None:
    if body.best_of is not None and body.best_of != body.n:
        raise bad_request(
            f"Got best_of = {body.best_of} with n = {body.n}; ranking by likelihood is not offered. "
            "Leave best_of out, or ask for a program (best_of_n) on chat completions.",
            param="best_of",
        )
    if body.max_tokens == 0 and not body.echo:
        raise bad_request("Got max_tokens = 0 without echo: nothing would come back.", param="max_tokens")
    if body.adaptive_compute is not None and (body.logprobs is not None or body.echo):
        raise bad_request(
            "adaptive_compute cannot be combined with logprobs or echo.", param="adaptive_compute"
        )


def _build_sampling(
    body: wire.CompletionRequest, state: ServerState, prompt_ids: tuple[int, ...]
) -> SamplingParams:
    room = state.model.max_length - len(prompt_ids)
    # OpenAI's default; a client that wants the whole context says so.
    limit = body.max_tokens if body.max_tokens is not None else min(16, room)
    return params.build_sampling(
        body,
        room=room,
        max_new_tokens=limit,
        num_logprobs=body.logprobs,
        vocabulary_size=state.model.vocabulary_size,
    )


def _make_branch(
    body: wire.CompletionRequest,
    state: ServerState,
    name: str,
    index: int,
    prompt_ids: tuple[int, ...],
    sampling: SamplingParams,
    rule: StoppingRule | None,
) -> Branch:
    key = RequestKey(program_id=name, request_id=f"choice-{index}")
    if rule is None or body.adaptive_compute is None:
        return PlainBranch(key, prompt_ids, sampling, stream=bool(body.stream))
    try:
        settings = WatchSettings(
            tokenizer=state.model.tokenizer,
            rule=rule,
            eos_token_ids=state.model.loaded.eos_token_ids,
            suffix=body.adaptive_compute.probe_text,
            exit="paste",
        )
        return WatchedBranch(settings, key, prompt_ids, sampling)
    except ConfigurationError as error:
        raise bad_request(str(error), code="invalid_value") from None


def _shape_whole(run: CompletionRun) -> dict[str, Any]:
    if run.choices:
        rows = [_shape_choice(run, choice) for choice in run.choices]
    else:
        rows = [_shape_echo(run, place) for place in range(len(run.prompts))]
    return run.shape_envelope(rows, usage=run.shape_usage())


def _shape_choice(run: CompletionRun, choice: Choice) -> dict[str, Any]:
    place = choice.index // run.body.n
    row: dict[str, Any] = {
        "index": choice.index,
        "text": run.echoes[place] + choice.content,
        "finish_reason": shapes.name_finish(choice.completion),
        "stop_reason": run.name_stop(choice),
        "logprobs": _shape_logprobs(run, place, choice),
    }
    if run.body.return_token_ids:
        row |= {"token_ids": list(choice.token_ids), "prompt_token_ids": list(run.prompts[place])}
    return row


def _shape_echo(run: CompletionRun, place: int) -> dict[str, Any]:
    return {
        "index": place,
        "text": run.echoes[place],
        "finish_reason": "length",
        "logprobs": _shape_logprobs(run, place, None),
    }


def _shape_logprobs(run: CompletionRun, place: int, choice: Choice | None) -> dict[str, Any] | None:
    if run.body.logprobs is None:
        return None
    ids: list[int] = []
    logprobs: list[float | None] = []
    top: list[Any] = []
    if run.readings:
        ids += run.prompts[place]
        logprobs += run.readings[place].logprobs
        top += run.readings[place].top_logprobs
    if choice is not None:
        ids += choice.token_ids
        logprobs += choice.logprobs
        top += choice.top_logprobs
    return shapes.shape_text_logprobs(run.state.model.tokenizer, ids, logprobs, top)


def _decode(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))
