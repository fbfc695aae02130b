"""The engines on a model of real size, vocabulary and template: SmolLM2-135M from its GGUF file."""

from __future__ import annotations

import pytest

from hf_dynasor.core import Prompt
from hf_dynasor.serving import LoadedModel
from tests.serving.kit import ask, complete, generate_plainly

pytestmark = pytest.mark.slow

QUESTIONS = ["What is 2+3?", "Name three colours.", "Sam has 3 apples and buys 4 more. How many has he now?"]


def encode(loaded: LoadedModel, question: str) -> list[int]:
    messages = [{"role": "user", "content": question}]
    ids: list[int] = loaded.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    return ids


def test_greedy_tokens_equal_plain_generate_alone_and_among_sixteen_others(
    open_engine, smollm2: LoadedModel
) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(smollm2)
    want = {question: generate_plainly(smollm2, encode(smollm2, question), 24) for question in QUESTIONS}
    alone = [complete(engine, ask(Prompt.chat(question), max_new_tokens=24))[0] for question in QUESTIONS]
    others = [
        ask(
            Prompt.chat(f"Tell me about {index}."), f"o{index}", temperature=1.0, max_new_tokens=4 + 2 * index
        )
        for index in range(16)
    ]
    asked = [
        ask(Prompt.chat(question), f"q{index}", max_new_tokens=24) for index, question in enumerate(QUESTIONS)
    ]
    among = complete(engine, *others[:8], *asked, *others[8:])[8:11]
    for question, lone, crowded in zip(QUESTIONS, alone, among, strict=True):
        assert lone.token_ids == crowded.token_ids == want[question]
        assert lone.text == smollm2.tokenizer.decode(
            [i for i in want[question] if i not in smollm2.eos_token_ids]
        )


def test_one_seed_gives_the_same_answer_whatever_runs_beside_it(open_engine, smollm2: LoadedModel) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(smollm2)
    request = ask(Prompt.chat(QUESTIONS[2]), "r", temperature=0.8, seed=11, max_new_tokens=24)
    (alone,) = complete(engine, request)
    others = [
        ask(Prompt.chat(f"{index}?"), f"o{index}", temperature=1.0, max_new_tokens=9) for index in range(4)
    ]
    among = complete(engine, *others, request)[4]
    assert among.token_ids == alone.token_ids


def test_the_system_prompt_of_the_template_is_shared(open_engine, smollm2: LoadedModel) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(smollm2)
    first, second = (complete(engine, ask(Prompt.chat(q), max_new_tokens=2))[0] for q in QUESTIONS[:2])
    assert first.usage.cached == 0
    assert second.usage.cached == (16 if "continuous" in engine.name else 0)
