"""What each kind of server takes, returns and honours beyond OpenAI's API. A table; sends nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hf_dynasor.engine import Ability
from hf_dynasor.errors import name_unknown

_OPENAI_FIELDS = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "logit_bias": "logit_bias",
    "stop": "stop",
}
_SHAPING = {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty"}
_ENDING = {"stop_token_ids": "stop_token_ids", "ignore_eos": "ignore_eos", "min_new_tokens": "min_tokens"}
_VLLM_FIELDS = {**_OPENAI_FIELDS, **_SHAPING, **_ENDING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one kind of server is spoken to.

    Args:
        name: What it is called.
        abilities: What it honours, as far as an engine declares it.
        fields: Fields of `SamplingParams` that it has, with the names that it gives them. Each is sent with every
            request, so that no default of the server's own acts in its place.
        keeps_all: What it takes for "no limit" as `top_k`.
        max_seed: Largest seed; a larger one is folded into the range.
        takes_ids: Whether `/completions` takes a prompt of token ids.
        returns_ids: Whether it tells the ids that it sampled (`return_token_ids`).
        has_tokenize: Whether it has `/tokenize` and `/detokenize` in vLLM's shape.
        stops_itself: Whether it honours `stop`; else the stream is watched here and closed.
        continues: Whether chat completions go on with a last message of the assistant's: by `flag`
            (`continue_final_message`), of their own accord (`always`), or `never`.
        has_priority: Whether it takes vLLM's `priority`, a lower number first.
        has_usage_in_stream: Whether `stream_options` is taken.
        uses_generation_config: Whether sampling goes into a `generation_config` of transformers' own.
    """

    name: str
    abilities: frozenset[Ability]
    fields: Mapping[str, str] = field(default_factory=lambda: _OPENAI_FIELDS)
    keeps_all: int = -1
    max_seed: int = 2**63 - 1
    takes_ids: bool = False
    returns_ids: bool = False
    has_tokenize: bool = False
    stops_itself: bool = True
    continues: Literal["flag", "always", "never"] = "never"
    has_priority: bool = False
    has_usage_in_stream: bool = True
    uses_generation_config: bool = False


def _list_abilities(*more: Ability) -> frozenset[Ability]:
    return frozenset({Ability.STREAM, *more})


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="vllm",
            abilities=_list_abilities(Ability.SEEDS, Ability.LOGPROBS, Ability.PREFIX_REUSE),
            fields=_VLLM_FIELDS,
            takes_ids=True,
            returns_ids=True,
            has_tokenize=True,
            continues="flag",
            has_priority=True,
        ),
        Dialect(
            name="hf_dynasor",
            abilities=_list_abilities(Ability.SEEDS, Ability.LOGPROBS, Ability.PREFIX_REUSE),
            fields=_VLLM_FIELDS,
            takes_ids=True,
            returns_ids=True,
            has_tokenize=True,
            has_priority=True,
        ),
        Dialect(
            # Its seeds bind only under deterministic inference, which nobody can see from outside.
            name="sglang",
            abilities=_list_abilities(Ability.LOGPROBS, Ability.PREFIX_REUSE),
            fields=_VLLM_FIELDS,
            takes_ids=True,
            continues="flag",
        ),
        Dialect(name="tgi", abilities=_list_abilities(Ability.SEEDS), has_usage_in_stream=True),
        Dialect(
            name="llama.cpp",
            abilities=_list_abilities(Ability.SEEDS, Ability.PREFIX_REUSE),
            fields={
                **_OPENAI_FIELDS,
                "top_k": "top_k",
                "min_p": "min_p",
                "repetition_penalty": "repeat_penalty",
            },
            keeps_all=0,
            max_seed=2**32 - 2,  # the next is its word for a random one
            continues="always",
        ),
        Dialect(
            # Temperature alone does not switch sampling on, `stop` is not heeded, a seed sets the whole process's.
            name="transformers",
            abilities=_list_abilities(),
            fields={
                name: name
                for name in ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")
            }
            | {"stop": "stop"},
            stops_itself=False,
            has_usage_in_stream=False,
            uses_generation_config=True,
        ),
        Dialect(name="openai", abilities=_list_abilities(Ability.LOGPROBS)),
    )
}


def get_dialect(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in DIALECTS:
        raise name_unknown("dialect", name, ["auto", *DIALECTS])
    return DIALECTS[name]
