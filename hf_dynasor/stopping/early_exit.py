"""`EarlyExit`: a callable for `generate(custom_generate=...)` that stops thoughts, has answers written, frees rows.

A row whose rule is certain gets its thinking closed with the model's own token, and the model writes its answer
from the cache that it has. Rows that are done leave the batch, so that exits save time and not only tokens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, get_args

import torch
from transformers.utils import ModelOutput

from hf_dynasor.answers import AnswerFormat
from hf_dynasor.errors import ConfigurationError, UnsupportedError, name_unknown
from hf_dynasor.stopping.caches import check_cache, check_model, check_padding
from hf_dynasor.stopping.decoding import DecodingBatch
from hf_dynasor.stopping.exit_loop import ExitLoop, are_rowwise
from hf_dynasor.stopping.exit_rows import ExitRow, ExitTexts
from hf_dynasor.stopping.exits import resolve_closing
from hf_dynasor.stopping.markers import check_tokenizer, find_think_markers
from hf_dynasor.stopping.policy import DepthPolicy, ExitStyle, RuleLike, resolve_policy
from hf_dynasor.stopping.probe import ProbeMode, Prober, pick_suffix
from hf_dynasor.stopping.readings import check_at_least
from hf_dynasor.stopping.rows import RowReport
from hf_dynasor.stopping.view import ForwardPass

_KNOWN_INPUTS = {"attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}


@dataclass
class EarlyExitOutput(ModelOutput):  # type: ignore[misc]
    """What `generate(..., return_dict_in_generate=True)` returns with `EarlyExit`.

    Args:
        sequences: Prompts and what follows, padded on the right, shape (batch, length).
        scores: Processed scores of each step, shape (batch, vocabulary), where asked for.
        logits: Raw logits of each step, shape (batch, vocabulary), where asked for.
        reports: For each row why it ended, its certaindex trace and its tokens.
    """

    sequences: torch.Tensor | None = None
    scores: tuple[torch.Tensor, ...] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    reports: tuple[RowReport, ...] | None = None


class EarlyExit:
    """Generation that stops thinking once the answer is known, and then answers.

    Args:
        tokenizer: The model's tokenizer.
        rule: When a thought ends: a rule, the name of one of the paper's effort levels, or the path of a policy file.
            By default what was calibrated for the model, see `find_policy`, else `DEFAULT_RULE`. A policy also
            says what the exit, the closing and the suffix are where they are left out here.
        exit: `"answer"` closes the thought and lets the model write its answer; `"paste"` writes the probe's answer
            for it (the paper's way); `"stop"` ends the row at once. By default `"answer"`.
        closing: What closes a thought: a name in `EXIT_CLOSINGS`, or a text with `{close}` for the marker. By
            default `"plain"`.
        grace: Tokens that an exit may wait for the end of a line or sentence; 0 cuts where the rule says.
        suffix: What a probe asks with, see `Prober`; `None` takes what fits the rule.
        probe_mode: `"verify"` or `"decode"`, see `Prober`.
        max_answer_tokens: Longest answer of a probe.
        markers: Texts that open and close the thinking, where they cannot be found.
        compact: Let rows that are done leave the batch. Off, the batch keeps its size as in plain `generate`.
        prober: Used instead of the one that the options above describe.
        format: How answers are found.

    Raises:
        ConfigurationError: No tokenizer, an unknown exit, a number below its range, a policy that cannot be used.

    Examples:

    ```python
    early_exit = EarlyExit(tokenizer)
    output = model.generate(
        **inputs, custom_generate=early_exit, max_new_tokens=2048, return_dict_in_generate=True
    )
    output.reports[0].usage.net_tokens
    ```
    """

    def __init__(
        self,
        tokenizer: Any,
        rule: RuleLike | None = None,
        *,
        exit: ExitStyle | None = None,
        closing: str | None = None,
        grace: int = 0,
        suffix: str | None = None,
        probe_mode: ProbeMode = "verify",
        max_answer_tokens: int = 32,
        markers: tuple[str, str] | None = None,
        compact: bool = True,
        prober: Any = None,
        format: AnswerFormat = "auto",
    ) -> None:
        check_tokenizer(tokenizer)
        check_at_least("grace", grace, 0)
        if exit is not None and exit not in get_args(ExitStyle):
            raise name_unknown("exit", exit, get_args(ExitStyle))
        if closing is not None:
            resolve_closing(closing)
        if markers is not None:
            find_think_markers(tokenizer, markers=markers)
        self._tokenizer, self._markers = tokenizer, markers
        # What was named is checked here; what lies beside the model is looked for once the model is known.
        self._policy = None if rule is None else resolve_policy(rule)
        self._exit, self._closing, self._suffix = exit, closing, suffix
        self._grace, self._is_compact = grace, compact
        self._prober, self._format = prober, format
        self._probing: dict[str, Any] = {
            "mode": probe_mode,
            "max_answer_tokens": max_answer_tokens,
            "format": format,
        }
        self._prepared: _Prepared | None = None
        self.reports: tuple[RowReport, ...] = ()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], tokenizer: Any, **options: Any) -> EarlyExit:
        """An early exit with the settings of a policy file.

        Args:
            path: The file, see `DepthPolicy`.
            tokenizer: The model's tokenizer.
            options: As above; they win over what the file says.
        """
        return cls(tokenizer, DepthPolicy.from_file(path), **options)

    @property
    def policy(self) -> DepthPolicy | None:
        """The rule and the exit in use; `None` before the first call, where the model's own are to be found."""
        return self._prepared.policy if self._prepared is not None else self._policy

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        token_streamer: Any = None,
        **model_kwargs: Any,
    ) -> torch.Tensor | EarlyExitOutput:
        """Called by `generate`; `generate(..., token_streamer=...)` streams (its `streamer` never gets here)."""
        _check_call(model, input_ids, generation_config, token_streamer, model_kwargs)
        ready = self._prepare(model, generation_config)
        texts, rule = ready.texts, ready.policy.rule
        mask = model_kwargs.get("attention_mask")
        batch = DecodingBatch(ForwardPass(model), input_ids, mask, model_kwargs["past_key_values"])
        keeps_scores = generation_config.return_dict_in_generate and generation_config.output_scores
        keeps_logits = generation_config.return_dict_in_generate and generation_config.output_logits
        loop = ExitLoop(
            batch=batch,
            rows=[ExitRow(texts, rule, ids) for ids in _split(input_ids, mask)],
            prober=ready.prober,
            needs=rule.needs,
            floor=getattr(rule, "floor", 0.0),
            processors=logits_processor,
            criteria=stopping_criteria,
            config=generation_config,
            pad=texts.pad,
            streamer=token_streamer,
            scores=[] if keeps_scores else None,
            logits=[] if keeps_logits else None,
            is_compact=self._is_compact
            and not (keeps_scores or keeps_logits)
            and are_rowwise((*logits_processor, *stopping_criteria)),
        )
        loop.run()
        self.reports = tuple(row.report() for row in loop.rows)
        sequences = _join(input_ids, [row.ids for row in loop.rows], texts.pad)
        if not generation_config.return_dict_in_generate:
            return sequences
        return EarlyExitOutput(
            sequences=sequences,
            scores=tuple(loop.scores) if loop.scores is not None else None,
            logits=tuple(loop.logits) if loop.logits is not None else None,
            reports=self.reports,
        )

    def _prepare(self, model: Any, generation_config: Any) -> _Prepared:
        """What depends on the model, made once for each."""
        eos = _list_eos(generation_config)
        pad = _find_pad(generation_config, eos)
        known = self._prepared
        if known is not None and known.model is model and (known.texts.eos, known.texts.pad) == (eos, pad):
            return known
        policy = self._policy or resolve_policy(None, model, self._tokenizer)
        markers = find_think_markers(self._tokenizer, generation_config, markers=self._markers)
        texts = ExitTexts(
            tokenizer=self._tokenizer,
            markers=markers,
            eos=eos,
            pad=pad,
            style=self._exit or policy.exit,
            closing=resolve_closing(self._closing or policy.closing),
            grace=self._grace,
            format=self._format,
        )
        self._prepared = _Prepared(
            model, policy, texts, self._prober or self._make_prober(model, policy, texts)
        )
        return self._prepared

    def _make_prober(self, model: Any, policy: DepthPolicy, texts: ExitTexts) -> Prober:
        suffix = self._suffix or policy.suffix or pick_suffix(policy.rule.needs)
        return Prober(
            model,
            self._tokenizer,
            suffix=suffix,
            markers=texts.markers,
            eos_token_ids=sorted(texts.eos),
            **self._probing,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What an early exit knows of the model that it was called by last."""

    model: Any
    policy: DepthPolicy
    texts: ExitTexts
    prober: Any


def _check_call(
    model: Any, input_ids: torch.Tensor, config: Any, streamer: Any, inputs: dict[str, Any]
) -> None:
    check_model(model)
    if (config.num_beams or 1) > 1:
        raise UnsupportedError(
            f"Got {config.num_beams = } but EarlyExit follows single rows: use greedy decoding or sampling (num_beams=1)."
        )
    if not config.use_cache or inputs.get("past_key_values") is None:
        raise ConfigurationError("Got use_cache=False but EarlyExit answers from the cache: use_cache=True.")
    odd = sorted(name for name, value in inputs.items() if value is not None and name not in _KNOWN_INPUTS)
    if odd:
        raise UnsupportedError(
            f"Got model inputs {', '.join(odd)} but EarlyExit passes on input_ids and attention_mask only. "
            "Use ProbingCriteria with stock generate()."
        )
    if streamer is not None and input_ids.shape[0] > 1:
        raise ConfigurationError(
            f"Got a streamer for {input_ids.shape[0]} rows but expected 1: stream rows one by one."
        )
    if config.prefill_chunk_size is not None or config.output_attentions or config.output_hidden_states:
        raise UnsupportedError(
            "EarlyExit neither prefills in chunks nor returns attentions and hidden states. "
            "Leave out prefill_chunk_size, output_attentions and output_hidden_states."
        )
    check_padding(inputs.get("attention_mask"))
    check_cache(inputs["past_key_values"])


def _list_eos(config: Any) -> frozenset[int]:
    ids = config.eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, (list, tuple)) else [int(ids)])


def _find_pad(config: Any, eos: frozenset[int]) -> int:
    return int(config.pad_token_id) if config.pad_token_id is not None else min(eos, default=0)


def _split(input_ids: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    if mask is None:
        prompts: list[list[int]] = input_ids.tolist()
        return prompts
    return [ids[keep.bool()].tolist() for ids, keep in zip(input_ids, mask, strict=True)]


def _join(input_ids: torch.Tensor, rows: list[list[int]], pad: int) -> torch.Tensor:
    length = max(map(len, rows))
    filled = [row + [pad] * (length - len(row)) for row in rows]
    return torch.cat([input_ids, torch.tensor(filled, device=input_ids.device, dtype=input_ids.dtype)], dim=1)
