"""Samples chains from a model folder with plain `generate`, in left-padded batches."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_dynasor.embedded.problems import Problem
from hf_dynasor.embedded.steps import line


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One sampled chain: its text without the end-of-turn token, its answer, and its length in tokens."""

    text: str
    answer: str | None
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoner:
    """A causal language model in float32 and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> Reasoner:
        """Loads both from a model folder."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        return cls(model=model, tokenizer=AutoTokenizer.from_pretrained(folder))

    def render(self, question: str, *, enable_thinking: bool = False) -> str:
        """Returns the prompt of a question."""
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=enable_thinking,
        )
        return str(rendered)

    def sample(
        self,
        prompts: Sequence[str],
        *,
        temperature: float,
        seed: int,
        expected_tokens: Sequence[int] | None = None,
        batch_size: int = 100,
        max_new_tokens: int = 256,
    ) -> list[Chain]:
        """Returns one chain for each prompt, in order; temperature 0 is greedy.

        Chains of similar expected length share a batch. A chain that runs on beyond the length that its batch
        expects is resumed later, with others of its kind, so that a batch never waits for one straggler.
        """
        torch.manual_seed(seed)
        starts = [self._encode(prompt) for prompt in prompts]
        expected = expected_tokens or [max_new_tokens] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: (expected[index], index))
        written: dict[int, list[int]] = {index: [] for index in order}
        for limit_factor in (1.15, math.inf):
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                room = max_new_tokens - max(len(written[index]) for index in chosen)
                limit = int(min(room, limit_factor * (expected[chosen[-1]] + 2)))
                rows = self._generate(
                    [starts[index] + written[index] for index in chosen], temperature, limit
                )
                for index, row in zip(chosen, rows, strict=True):
                    written[index] += row
            order = [index for index in order if self.tokenizer.eos_token_id not in written[index]]
            order = [index for index in order if len(written[index]) < max_new_tokens]
        return [self._to_chain(written[index]) for index in range(len(prompts))]

    @torch.inference_mode()
    def _generate(self, starts: list[list[int]], temperature: float, max_new_tokens: int) -> list[list[int]]:
        """Returns the ids that follow each start, padding left out."""
        length = max(map(len, starts))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(start)) + start for start in starts])
        mask = torch.tensor([[0] * (length - len(start)) + [1] * len(start) for start in starts])
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0}
            if temperature
            else {"do_sample": False}
        )
        output = self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            max_new_tokens=max_new_tokens,
            **sampling,
        )
        return [[token for token in row if token != pad] for row in output[:, length:].tolist()]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _to_chain(self, ids: list[int]) -> Chain:
        eos = self.tokenizer.eos_token_id
        length = ids.index(eos) if eos in ids else len(ids)
        text = str(self.tokenizer.decode(ids[:length]))
        return Chain(text=text, answer=extract_boxed(text), num_tokens=min(length + 1, len(ids)))


def sample_for_problems(
    reasoner: Reasoner,
    problems: Sequence[Problem],
    *,
    num_samples: int,
    temperature: float,
    seed: int,
    enable_thinking: bool = False,
    max_new_tokens: int = 256,
) -> list[list[Chain]]:
    """Returns `num_samples` chains for each problem."""
    prompts = [reasoner.render(problem.question, enable_thinking=enable_thinking) for problem in problems]
    lengths = [_expect_tokens(problem, enable_thinking=enable_thinking) for problem in problems]
    chains = reasoner.sample(
        [prompt for prompt in prompts for _ in range(num_samples)],
        expected_tokens=[length for length in lengths for _ in range(num_samples)],
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    return [chains[start : start + num_samples] for start in range(0, len(chains), num_samples)]


def _expect_tokens(problem: Problem, *, enable_thinking: bool) -> int:
    """Returns about how many tokens the right chain has: nearly every character but the words is a token."""
    steps = sum(len(line(step)) + 1 for step in problem.steps)
    return (5 * steps + 50 if enable_thinking else steps) + len(problem.answer) + 8


def extract_boxed(text: str) -> str | None:
    """Returns the last boxed whole number, without leading zeros."""
    found: list[str] = re.findall(r"\\boxed\{\s*(\d+)\s*\}", text)
    return str(int(found[-1])) if found else None
