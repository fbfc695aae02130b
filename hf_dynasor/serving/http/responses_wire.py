"""What clients may send to `/v1/responses`. A field that is not here is refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hf_dynasor.serving.http import wire

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class InputPart(wire.Wire):
    """A piece of a message: text. An answer's own pieces may be sent back as they came."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = Field(None, max_length=0)
    logprobs: list[Any] | None = Field(None, description="As it came; not read.")


class MessageItem(wire.Wire):
    """One turn, or a message of an earlier response sent back."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputPart]
    id: str | None = Field(None, description="As it came; not read.")
    status: ItemStatus | None = Field(None, description="As it came; not read.")


class ReasoningPart(wire.Wire):
    """A piece of the thinking of an earlier response."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(wire.Wire):
    """The thinking of an earlier response sent back: accepted, and not shown to the model again."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningPart] = Field(default_factory=list)
    content: list[ReasoningPart] | None = None
    encrypted_content: None = None
    status: ItemStatus | None = None


InputItem = Annotated[MessageItem | ReasoningItem, Field(union_mode="left_to_right")]


class Reasoning(wire.Wire):
    """How long the model thinks."""

    effort: Effort | None = None
    summary: None = None
    generate_summary: None = None


class TextOptions(wire.Wire):
    """Only plain text is supported."""

    format: wire.ResponseFormat | None = None


class StreamOptions(wire.Wire):
    """Nothing can be changed about a stream."""

    include_obfuscation: Literal[False] = Field(False, description="Never added.")


class ResponseOptions(wire.Wire):
    """Dynasor's effort of early stopping. Whole programs run on chat completions and `/v1/programs`."""

    saving_effort: wire.Effort


class ResponseRequest(wire.Wire):
    """The body of `POST /v1/responses`."""

    model: str | None = None
    input: str | list[InputItem] = Field(min_length=1)
    instructions: str | None = Field(None, description="A system message, for this response only.")
    previous_response_id: str | None = Field(None, description="A kept response that this one continues.")
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[Literal["message.output_text.logprobs"]] | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = Field(
        None, description="Keep it for GET and for later turns; by default it is kept."
    )
    background: bool | None = Field(None, description="Answer at once; ask for the result with GET.")
    truncation: Literal["disabled"] | None = None
    tools: list[Any] | None = Field(None, max_length=0, description="Tools are not supported.")
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = Field(None, description="Without tools it changes nothing.")
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = Field(None, description="For the client's own records.")
    user: str | None = Field(None, description="For the client's own records.")
    safety_identifier: str | None = Field(None, description="For the client's own records.")
    prompt_cache_key: str | None = Field(None, description="Beginnings are shared by themselves.")
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    top_k: int | None = Field(None, ge=-1, description="-1 and 0 keep all tokens.")
    min_p: float | None = Field(None, ge=0, lt=1)
    stop: str | list[str] | None = None
    priority: wire.Priority | None = None
    chat_template_kwargs: wire.TemplateOptions | None = None
    dynasor: ResponseOptions | None = None
