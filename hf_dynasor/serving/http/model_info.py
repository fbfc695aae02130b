"""What handlers need to know of the model that is served: its names, its tokenizer, its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_dynasor.core import Prompt
from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.http.errors import ApiError, not_found
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompts import PromptEncoder
from hf_dynasor.stopping import Phase, RowThinking, ThinkMarkers, find_think_markers


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model as a server shows it.

    Args:
        loaded: Model and tokenizer.
        name: What clients call it.
        created: Unix seconds, for `/v1/models`.
        capacity: Tokens that one request may take in the engine's cache; `None` for no limit besides the context.

    Attributes:
        markers: How the model marks its thinking, if it does.
        encoder: Prompts to ids, as the engine does it.
    """

    loaded: LoadedModel
    name: str
    created: int
    capacity: int | None = None
    # Found once: looking for it reads the whole vocabulary.
    markers: ThinkMarkers | None = field(init=False)
    # Made once: it asks the tokenizer what a text begins with.
    encoder: PromptEncoder = field(init=False)

    def __post_init__(self) -> None:
        found = find_think_markers(self.loaded.tokenizer, self.loaded.generation_config)
        object.__setattr__(self, "markers", found)
        object.__setattr__(self, "encoder", PromptEncoder(self.loaded))

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.loaded.tokenizer

    @property
    def max_length(self) -> int:
        """Most tokens of prompt and answer together."""
        limits = [limit for limit in (self.loaded.max_context, self.capacity) if limit is not None]
        return min(limits, default=2**20)

    @property
    def vocabulary_size(self) -> int:
        """Token ids that there are."""
        return int(self.loaded.config.vocab_size)

    def check_name(self, asked: str | None) -> None:
        """Raise 404 for another model than this one; no name means this one."""
        if asked not in (None, "", self.name):
            raise not_found(
                f"The model {asked!r} does not exist here. This server has {self.name!r}.",
                param="model",
                code="model_not_found",
            )

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The ids of a prompt.

        Raises:
            ApiError: 400, it cannot be encoded or leaves no room for an answer.
        """
        try:
            ids = self.encoder.encode(prompt)
        except ConfigurationError as error:
            raise ApiError(status=400, message=str(error), code="invalid_prompt") from None
        if len(ids) >= self.max_length:
            raise ApiError(
                status=400,
                message=f"The prompt has {len(ids)} tokens but {self.name} takes at most {self.max_length} with the "
                "answer. Shorten it.",
                code="context_length_exceeded",
                param="prompt",
            )
        return ids

    def find_phase(self, prompt_ids: tuple[int, ...], markers: ThinkMarkers | None) -> Phase:
        """Whether the thinking is open, closed or not begun where the prompt ends."""
        return RowThinking(self.tokenizer, markers, prompt_ids).phase
