"""Chat completions that run a whole program: its answer is the message, its grants come along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from hf_dynasor.errors import EngineError, HFDynasorError
from hf_dynasor.grants import AllocationPolicy, Answer
from hf_dynasor.program import ReasoningProgram
from hf_dynasor.recipe import Recipe
from hf_dynasor.serving.http import shapes, sse, wire
from hf_dynasor.serving.http.chat import check_stream_options
from hf_dynasor.serving.http.errors import bad_request, timed_out
from hf_dynasor.serving.http.generation import SILENCE_S
from hf_dynasor.serving.http.program_runs import ProgramEvent, find_text, follow_program
from hf_dynasor.serving.http.reasoning import ReasoningSplitter
from hf_dynasor.serving.http.recipes import build_recipe, count_units
from hf_dynasor.serving.http.settings import Tenant
from hf_dynasor.serving.http.state import ServerState, make_id
from hf_dynasor.serving.http.terms import ServingTerms, read_terms
from hf_dynasor.stopping import Phase

# Fields of a chat completion that a recipe has too, by the recipe's names.
_RECIPE_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "seed": "seed",
}
_READ = {*_RECIPE_FIELDS, *("model", "messages", "stream", "stream_options", "dynasor", "priority")}
_RECORDS = {
    "user",
    "metadata",
    "request_id",
    "store",
    "service_tier",
    "modalities",
    "response_format",
    "tool_choice",
}


@dataclass(slots=True, kw_only=True)
class ProgramChat:
    """One chat completion that runs a program."""

    body: wire.ChatRequest
    state: ServerState
    id: str
    created: int
    program: ReasoningProgram
    policy: AllocationPolicy
    units: int
    terms: ServingTerms

    async def run(self) -> AsyncGenerator[ProgramEvent | None, None]:
        """The program's events.

        Raises:
            ApiError: 504, the time is over.
        """
        limit = self.state.settings.request_timeout_s
        async with self.state.open_channel(self.units, self.terms) as channel:
            events = follow_program(
                self.program,
                self.state.engine,
                self.policy,
                timeout_s=limit,
                silence_s=SILENCE_S,
                terms=self.terms.for_program(self.state.clock.now()),
                spans=self.state.watch_program(self.program.name, self.id),
            )
            try:
                yield None  # let in
                async for event in events:
                    if event is not None and event.answer is not None:
                        channel.life.finish(event.answer.usage, [event.answer.stop_reason.value])
                        self.state.metrics.count_program(
                            self.program.name, event.answer, channel.life.seconds
                        )
                    yield event
            except asyncio.TimeoutError:
                raise timed_out(limit) from None
            finally:
                await events.aclose()


async def answer_program_chat(
    body: wire.ChatRequest, state: ServerState, *, now: int, tenant: Tenant | None = None
) -> Response:
    """A chat completion whose `dynasor` field names a program.

    Raises:
        ApiError: The request cannot be honoured.
    """
    chat = prepare_program_chat(body, state, now=now, tenant=tenant)
    events = chat.run()
    if body.stream:
        return await sse.respond(_stream(chat, events), close=events.aclose)
    async for event in events:
        if event is not None and event.answer is not None:
            return JSONResponse(_shape_whole(chat, event.answer))
    raise EngineError("The program ended without an answer.")


def prepare_program_chat(
    body: wire.ChatRequest, state: ServerState, *, now: int, tenant: Tenant | None = None
) -> ProgramChat:
    """Check everything and make the program; nothing runs yet."""
    state.model.check_name(body.model)
    check_stream_options(body)
    assert body.dynasor is not None
    for name in sorted(body.model_fields_set - _READ - _RECORDS - {"n"}):
        if getattr(body, name) is not None:
            raise bad_request(f"{name} cannot be combined with dynasor.program. Leave one out.", param=name)
    if body.n != 1:
        raise bad_request("n is the program's to choose: set dynasor.budget instead.", param="n")
    recipe = choose_recipe(body, state, body.dynasor)
    try:
        program, policy = recipe.build(list_messages(body.messages), label=make_id("program"))
    except HFDynasorError as error:
        raise bad_request(str(error), param="messages", code="invalid_value") from None
    return ProgramChat(
        body=body,
        state=state,
        id=make_id("chatcmpl"),
        created=now,
        program=program,
        policy=policy,
        units=count_units(recipe),
        terms=read_terms(body, tenant, state.clock.now()),
    )


def choose_recipe(body: wire.ChatRequest, state: ServerState, options: wire.DynasorOptions) -> Recipe:
    """The recipe of a chat completion's program."""
    fields = {
        mine: getattr(body, theirs)
        for theirs, mine in _RECIPE_FIELDS.items()
        if getattr(body, theirs) is not None
    }
    return build_recipe(state.settings.recipe, options, fields)


def list_messages(messages: list[wire.ChatMessage]) -> list[dict[str, str]]:
    """The turns as recipes take them."""
    return [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content),
        }
        for message in messages
    ]


def shape_answer(answer: Answer) -> dict[str, Any]:
    """What a client is told of a program's end, besides the message."""
    row = answer.to_dict()
    keys = (
        "answer",
        "certaindex",
        "stop_reason",
        "explanation",
        "votes",
        "budget",
        "unit",
        "sequential_tokens",
    )
    return {key: row[key] for key in keys} | {
        "units_spent": answer.units_spent,
        "grants": row["grants"],
        "num_failed": answer.num_failed,
        "full_budget_tokens": answer.full_budget_tokens,
    }


def _shape_whole(chat: ProgramChat, answer: Answer) -> dict[str, Any]:
    reasoning, content = _split(chat, answer)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    return {
        "id": chat.id,
        "object": "chat.completion",
        "created": chat.created,
        "model": chat.state.model.name,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": _shape_usage(answer),
        "dynasor": shape_answer(answer) | chat.terms.describe(chat.state.clock.now()),
    }


def _shape_usage(answer: Answer) -> dict[str, Any]:
    saved = max(0, answer.full_budget_tokens - answer.usage.net_tokens)
    return shapes.shape_usage(answer.usage, num_prompt=answer.usage.prompt, num_saved=saved)


def _split(chat: ProgramChat, answer: Answer) -> tuple[str, str]:
    """The message's text, told apart. A cut thought may lack its closing marker: then its end is the answer."""
    markers = chat.state.model.markers
    splitter = ReasoningSplitter(markers, Phase.BEFORE)
    first, rest = splitter.push(find_text(answer)), splitter.finish()
    reasoning, content = first.reasoning + rest.reasoning, first.content + rest.content
    if not content and answer.text is not None:
        content = f"\\boxed{{{answer.text}}}"
    return reasoning, content


async def _stream(
    chat: ProgramChat, events: AsyncGenerator[ProgramEvent | None, None]
) -> AsyncGenerator[str, None]:
    options = chat.body.stream_options
    await anext(events)  # let in: what fails before is a plain error with its status
    last_sent = chat.state.clock.now()
    yield sse.encode_event(_shape_chunk(chat, {"role": "assistant", "content": ""}))
    async for event in events:
        if event is None:
            if chat.state.clock.now() - last_sent >= chat.state.settings.keep_alive_s:
                last_sent = chat.state.clock.now()
                yield sse.KEEP_ALIVE
            continue
        last_sent = chat.state.clock.now()
        if event.kind == "grant":
            yield sse.encode_event(_shape_chunk(chat, {}, dynasor={"grant": event.data}))
        if event.answer is not None:
            reasoning, content = _split(chat, event.answer)
            if reasoning:
                yield sse.encode_event(_shape_chunk(chat, {"reasoning_content": reasoning}))
            yield sse.encode_event(_shape_chunk(chat, {"content": content}))
            told = shape_answer(event.answer) | chat.terms.describe(chat.state.clock.now())
            yield sse.encode_event(_shape_chunk(chat, {}, finish="stop", dynasor=told))
            if options is not None and options.include_usage:
                yield sse.encode_event(_shape_envelope(chat, [], usage=_shape_usage(event.answer)))


def _shape_chunk(
    chat: ProgramChat, delta: dict[str, Any], *, finish: str | None = None, **more: Any
) -> dict[str, Any]:
    return _shape_envelope(
        chat, [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], **more
    )


def _shape_envelope(chat: ProgramChat, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "id": chat.id,
        "object": "chat.completion.chunk",
        "created": chat.created,
        "model": chat.state.model.name,
        "choices": choices,
        **more,
    }
