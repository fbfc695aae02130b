"""What the engine tests share: a tiny model, a sink that waits, requests in few words."""

from __future__ import annotations

import queue

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_dynasor.core import (
    Completion,
    Event,
    Generate,
    Prompt,
    RequestKey,
    SamplingParams,
    TokenDelta,
    TokenIds,
)
from hf_dynasor.engine import Engine
from hf_dynasor.serving import LoadedModel

TEXTS = [
    "What is 2+3? 2+3 is 5.",
    "Größe, naïve, 東京, 🙂🙃 — and so on.",
    "Wait, let me check: 12*7 = 84.",
] * 20
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens: almost every non-ASCII character takes several of them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast, *, eos: bool = True) -> LlamaForCausalLM:
    """A random Llama of four layers whose logits are spread wide enough that rounding decides nothing."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id if eos else None,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class Collector:
    """A sink that keeps what it gets, and waits for completions with a bound."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Event] = queue.Queue()
        self.deltas: dict[RequestKey, list[TokenDelta]] = {}
        self.completions: dict[RequestKey, Completion] = {}
        self.num_completions = 0

    def __call__(self, event: Event) -> None:
        self.queue.put(event)

    def take(self, timeout: float = 180.0) -> Event:
        event = self.queue.get(timeout=timeout)
        if isinstance(event, TokenDelta):
            assert event.key not in self.completions, "a delta after the completion"
            self.deltas.setdefault(event.key, []).append(event)
        else:
            self.num_completions += 1
            self.completions[event.key] = event
        return event

    def wait(self, count: int) -> dict[RequestKey, Completion]:
        while self.num_completions < count:
            self.take()
        return self.completions


def ask(
    prompt: str | Prompt | list[int],
    name: str = "r0",
    *,
    program: str = "p",
    stream: bool = False,
    probe: bool = False,
    **sampling: object,
) -> Generate:
    """A request in few words; greedy unless a temperature is given."""
    if isinstance(prompt, str):
        prompt = Prompt.plain(prompt)
    elif isinstance(prompt, list):
        prompt = Prompt((TokenIds(ids=tuple(prompt)),))
    params = SamplingParams(**{"max_new_tokens": 16, "temperature": 0.0} | sampling)
    key = RequestKey(program_id=program, request_id=name)
    return Generate(key=key, prompt=prompt, sampling=params, stream=stream, is_probe=probe)


def complete(engine: Engine, *requests: Generate) -> list[Completion]:
    """Run requests together and return their completions in order."""
    collector = Collector()
    engine.submit(requests, collector)
    done = collector.wait(len(requests))
    return [done[request.key] for request in requests]


def generate_plainly(loaded: LoadedModel, ids: list[int], max_new_tokens: int) -> tuple[int, ...]:
    """What `model.generate` says, greedily, alone."""
    output = loaded.model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        pad_token_id=loaded.pad_token_id,
        eos_token_id=sorted(loaded.eos_token_ids),
    )
    return tuple(output[0, len(ids) :].tolist())
