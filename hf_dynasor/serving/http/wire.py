"""What clients may send: OpenAI's fields, vLLM's additions, Dynasor's own. A field that is not here is refused by name.

The models check types and plain ranges; what a field means is decided in `params`. Nothing is ignored in silence:
fields that only name things for the client's own records are listed as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

MAX_DEADLINE_MS = 7 * 24 * 3600 * 1000
"""A week: later deadlines are none."""

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Priority = Annotated[int, Field(ge=-(2**31), le=2**31, description="Lower runs earlier.")]
Effort = Literal["mild", "low", "mid", "high", "crazy"]


class HasText(Protocol):
    """A part of a message."""

    text: str


class Wire(BaseModel):
    """A body in which every field is known."""

    model_config = ConfigDict(extra="forbid", strict=False)


class StreamOptions(Wire):
    """When usage comes along with a stream."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Literal[False] = Field(False, description="Never added.")


class AdaptiveCompute(Wire):
    """Dynasor's own field of completions: probe while thinking, stop once the answers agree."""

    mode: str | None = Field(None, description="For the client's own records.")
    probe_text: str = Field(min_length=1)
    probe_text_end: str = "}"
    certainty_window: int = Field(2, ge=1, le=64)
    token_interval: int = Field(32, ge=1)


class DynasorOptions(Wire):
    """How a chat completion spends its tokens: an effort of early stopping, or a whole program."""

    saving_effort: Effort | None = None
    program: str | None = None
    budget: int | None = Field(None, ge=1, le=100_000)
    policy: str | None = None
    certaindex: dict[str, float] | None = Field(
        None, description="Signal to threshold, such as entropy: 0.7."
    )
    detect_at: int | None = Field(None, ge=1)
    instruction: str | None = Field(
        None, max_length=2000, description="Appended to the question; '' adds nothing."
    )
    deadline_ms: int | None = Field(
        None, ge=1, le=MAX_DEADLINE_MS, description="Milliseconds from now by which it should have ended."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Further options of the program.")

    @property
    def names_program(self) -> bool:
        """Whether a program is to run, rather than one chat completion."""
        return any(
            value is not None
            for value in (self.program, self.budget, self.policy, self.certaindex, self.detect_at)
        )


def join_text(content: str | Sequence[HasText]) -> str:
    """The text of a message, whole or in parts."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


class Sampling(Wire):
    """Fields that chat completions and completions share."""

    model: str | None = None
    n: int = Field(1, ge=1)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="-1 and 0 keep all tokens.")
    min_p: float | None = Field(None, ge=0, lt=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: Literal[False] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    priority: Priority | None = None
    request_id: str | None = Field(None, min_length=1, max_length=200)
    user: str | None = Field(None, description="For the client's own records.")
    metadata: dict[str, str] | None = Field(None, description="For the client's own records.")
    extra_body: dict[str, Any] | None = Field(
        None, max_length=0, description="Empty: its fields belong beside the others, where clients put them."
    )


class TextPart(Wire):
    """A piece of a message; only text is supported."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. A `name` and the `reasoning_content` of earlier turns are accepted and not shown to the model."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    reasoning_content: str | None = None
    refusal: None = None


class ResponseFormat(Wire):
    """Only plain text is supported."""

    type: Literal["text"]


class TemplateOptions(Wire):
    """What may be passed to the chat template."""

    enable_thinking: bool | None = None


class ChatRequest(Sampling):
    """The body of `/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    thinking_token_budget: int | None = Field(None, ge=0)
    chat_template_kwargs: TemplateOptions | None = None
    response_format: ResponseFormat | None = None
    tool_choice: Literal["none"] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    dynasor: DynasorOptions | None = None


class CompletionRequest(Sampling):
    """The body of `/v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1)
    suffix: None = None
    adaptive_compute: AdaptiveCompute | None = None


class TokenizeRequest(Wire):
    """The body of `/tokenize`: a text, or a conversation to be rendered."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: Literal[True] = Field(True, description="Always added, as for chat completions.")
    return_token_strs: bool = False
    chat_template_kwargs: TemplateOptions | None = None


class DetokenizeRequest(Wire):
    """The body of `/detokenize`."""

    model: str | None = None
    tokens: list[int]


class ControlRequest(Wire):
    """The body of `/v1/chat/completions/control`: what to do with a running request."""

    id: str
    action: Literal["reasoning_end"]
