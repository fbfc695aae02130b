"""`/v1/chat/completions`: a conversation in, choices out, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_dynasor.core import RequestKey, SamplingParams
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http import params, shapes, sse, wire
from hf_dynasor.serving.http.branches import Branch, PlainBranch, Switch, SwitchedBranch, WatchedBranch
from hf_dynasor.serving.http.chat_stream import stream_chat
from hf_dynasor.serving.http.errors import bad_request
from hf_dynasor.serving.http.generation import Choice, Update, run_choices, sum_usage
from hf_dynasor.serving.http.reasoning import ReasoningSplitter
from hf_dynasor.serving.http.settings import Tenant
from hf_dynasor.serving.http.state import ServerState, make_id
from hf_dynasor.serving.http.terms import ServingTerms, read_terms
from hf_dynasor.stopping import RowThinking, StoppingRule, ThinkMarkers, WatchSettings


@dataclass(slots=True, kw_only=True)
class ChatRun:
    """One chat completion on its way.

    Args:
        body: What the client sent.
        state: The server.
        id: The completion's name.
        created: Unix seconds.
        prompt_ids: The rendered conversation.
        choices: What is generated.
        switch: Ends the thinking, where the model thinks.
        program_id: What the engine calls it.
        terms: How it is to be served.
    """

    body: wire.ChatRequest
    state: ServerState
    id: str
    created: int
    prompt_ids: tuple[int, ...]
    choices: list[Choice]
    switch: Switch | None
    program_id: str
    terms: ServingTerms

    async def run(self) -> AsyncGenerator[Update, None]:
        """Generate; updates as they come."""
        settings, num_choices = self.state.settings, len(self.choices)
        async with self.state.open_channel(num_choices, self.terms) as channel:
            channel.announce(self.program_id, self.terms.plan("chat", num_choices, self.state.clock.now()))
            if self.switch is not None:
                self.state.switches[self.id] = self.switch
            try:
                async for update in run_choices(
                    channel,
                    self.choices,
                    clock=self.state.clock,
                    timeout_s=settings.request_timeout_s,
                ):
                    yield update
            finally:
                self.state.switches.pop(self.id, None)

    def shape_deadline(self) -> dict[str, Any]:
        """Whether the deadline was met, once all has ended; nothing without one."""
        if self.terms.deadline_at is None or not all(choice.is_done for choice in self.choices):
            return {}
        return {"dynasor": self.terms.describe(self.state.clock.now())}

    def shape_usage(self) -> dict[str, Any]:
        """The token account so far."""
        return shapes.shape_usage(
            sum_usage(self.choices),
            num_prompt=len(self.prompt_ids),
            num_reasoning=sum(choice.num_reasoning for choice in self.choices),
        )

    def shape_logprobs(self, ids: Any, logprobs: Any, top: Any) -> Any:
        """Log-probabilities of tokens, where asked for."""
        if not self.body.logprobs:
            return None
        return shapes.shape_chat_logprobs(self.state.model.tokenizer, ids, logprobs, top)

    def shape_running_usage(self) -> dict[str, Any]:
        """The account while choices are still running: what was delivered."""
        count = sum(len(choice.token_ids) for choice in self.choices)
        prompt = len(self.prompt_ids)
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


async def answer_chat(
    body: wire.ChatRequest, state: ServerState, *, now: int, tenant: Tenant | None = None
) -> Response:
    """A chat completion of plain samples (programs are answered elsewhere).

    Raises:
        ApiError: The request cannot be honoured.
    """
    run = prepare_chat(body, state, now=now, tenant=tenant)
    if body.stream:
        updates = run.run()
        return await sse.respond(stream_chat(run, updates), close=updates.aclose)
    async for _ in run.run():
        pass
    return JSONResponse(_shape_whole(run))


def prepare_chat(
    body: wire.ChatRequest, state: ServerState, *, now: int, tenant: Tenant | None = None
) -> ChatRun:
    """Check everything and make the choices; nothing runs yet."""
    state.model.check_name(body.model)
    params.check_counts(state.settings, body)
    check_stream_options(body)
    model, markers = state.model, state.model.markers
    prompt_ids = model.encode(params.build_chat_prompt(body.messages, _choose_template_options(body)))
    sampling = params.build_sampling(
        body,
        room=model.max_length - len(prompt_ids),
        max_new_tokens=_choose_limit(body),
        num_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        vocabulary_size=model.vocabulary_size,
    )
    if body.top_logprobs and not body.logprobs:
        raise bad_request("top_logprobs needs logprobs: true.", param="top_logprobs")
    switch = Switch() if markers is not None and not sampling.logprobs else None
    rule = _build_rule(body, markers, switch)
    name = make_id("chatcmpl")
    choices = [
        Choice(
            index,
            _make_branch(state, name, index, prompt_ids, params.seed_choice(sampling, index), rule, body),
            ReasoningSplitter(markers, model.find_phase(prompt_ids, markers)),
            thinking=RowThinking(model.tokenizer, markers, prompt_ids) if markers else None,
        )
        for index in range(body.n)
    ]
    return ChatRun(
        body=body,
        state=state,
        id=name,
        created=now,
        prompt_ids=prompt_ids,
        choices=choices,
        switch=switch if rule is not None else None,
        program_id=name,
        terms=read_terms(body, tenant, state.clock.now()),
    )


def check_stream_options(body: wire.Sampling) -> None:
    """Raise 400 for stream options without a stream."""
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true.", param="stream_options")


def _choose_limit(body: wire.ChatRequest) -> int | None:
    asked = {limit for limit in (body.max_tokens, body.max_completion_tokens) if limit is not None}
    if len(asked) > 1:
        raise bad_request(
            "Got max_tokens and max_completion_tokens with different values. Expected one of them.",
            param="max_tokens",
        )
    limit = next(iter(asked), None)
    if limit == 0:
        raise bad_request("Got max_tokens = 0 but expected at least 1.", param="max_tokens")
    return limit


def _choose_template_options(body: wire.ChatRequest) -> wire.TemplateOptions | None:
    options = body.chat_template_kwargs
    if body.reasoning_effort == "none" and (options is None or options.enable_thinking is None):
        return wire.TemplateOptions(enable_thinking=False)
    return options


def _build_rule(
    body: wire.ChatRequest, markers: ThinkMarkers | None, switch: Switch | None
) -> StoppingRule | None:
    for name in ("thinking_token_budget", "reasoning_effort"):
        if getattr(body, name) is not None and markers is None:
            raise bad_request(
                f"{name} is set but the model does not mark its thinking. Leave it out.", param=name
            )
    is_asked = params.build_rule(body) is not None
    if is_asked and body.logprobs:
        raise bad_request(
            "logprobs cannot be had where the thinking may be ended: its forced tokens have none. "
            "Leave logprobs out, or the fields that end the thinking.",
            param="logprobs",
        )
    # Only streams can be watched from outside, so only they carry a switch without being asked to.
    return params.build_rule(body, switch) if is_asked or body.stream else None


def _make_branch(
    state: ServerState,
    name: str,
    index: int,
    prompt_ids: tuple[int, ...],
    sampling: SamplingParams,
    rule: StoppingRule | None,
    body: wire.ChatRequest,
) -> Branch:
    key = RequestKey(program_id=name, request_id=f"choice-{index}")
    plain = PlainBranch(key, prompt_ids, sampling, stream=bool(body.stream))
    if rule is None:
        return plain

    def watch() -> WatchedBranch:
        settings = WatchSettings(
            tokenizer=state.model.tokenizer,
            rule=rule,
            eos_token_ids=state.model.loaded.eos_token_ids,
            exit="answer",
        )
        return WatchedBranch(settings, key, prompt_ids, sampling)

    if isinstance(rule, Switch):
        return SwitchedBranch(plain, rule, watch)
    try:
        return watch()
    except ConfigurationError as error:
        raise bad_request(str(error), code="invalid_value") from None


def _shape_whole(run: ChatRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "object": "chat.completion",
        "created": run.created,
        "model": run.state.model.name,
        "choices": [_shape_choice(run, choice) for choice in run.choices],
        "usage": run.shape_usage(),
        **run.shape_deadline(),
    }


def _shape_choice(run: ChatRun, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    row: dict[str, Any] = {
        "index": choice.index,
        "message": message,
        "finish_reason": shapes.name_finish(choice.completion),
        "logprobs": run.shape_logprobs(choice.token_ids, choice.logprobs, choice.top_logprobs),
    }
    if run.body.return_token_ids:
        row["token_ids"] = list(choice.token_ids)
    return row
