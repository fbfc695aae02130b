"""Samples chains from a model folder with plain `generate`, in left-padded batches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_dynasor.embedded.problems import Problem


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
        batch_size: int = 100,
        max_new_tokens: int = 256,
    ) -> list[Chain]:
        """Returns one chain for each prompt, in order; temperature 0 is greedy. Similar lengths share a batch."""
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        chains: dict[int, Chain] = {}
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = [prompts[index] for index in chosen]
            generated = self._generate(batch, temperature=temperature, max_new_tokens=max_new_tokens)
            chains.update(zip(chosen, generated, strict=True))
        return [chains[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _generate(self, prompts: list[str], *, temperature: float, max_new_tokens: int) -> list[Chain]:
        inputs = self.tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_k": 0}
            if temperature
            else {"do_sample": False}
        )
        output = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            **sampling,
        )
        return [self._to_chain(row) for row in output[:, inputs["input_ids"].shape[1] :].tolist()]

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
    chains = reasoner.sample(
        [prompt for prompt in prompts for _ in range(num_samples)],
        temperature=temperature,
        seed=seed,
        max_new_tokens=max_new_tokens,
    )
    return [chains[start : start + num_samples] for start in range(0, len(chains), num_samples)]


def extract_boxed(text: str) -> str | None:
    """Returns the last boxed whole number, without leading zeros."""
    found: list[str] = re.findall(r"\\boxed\{\s*(\d+)\s*\}", text)
    return str(int(found[-1])) if found else None
