"""The engines on the embedded reasoner, the model that is used when none is named."""

from __future__ import annotations

from hf_dynasor.core import Prompt
from hf_dynasor.serving import LoadedModel
from tests.serving.kit import ask, complete, generate_plainly

QUESTIONS = [
    "What is 2+3?",
    "What is 47+58-3*6?",
    "Tom has 12 apples and buys 7 more. How many apples has Tom?",
]


def test_greedy_tokens_equal_plain_generate_alone_and_among_sixteen_others(
    open_engine, embedded: LoadedModel
) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(embedded)
    others = [
        ask(Prompt.chat(f"What is {index}+{7 * index}?"), f"o{index}", temperature=1.0, max_new_tokens=40)
        for index in range(16)
    ]
    for question in QUESTIONS:
        ids = embedded.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        want = generate_plainly(embedded, ids, 80)
        (alone,) = complete(engine, ask(Prompt.chat(question), max_new_tokens=80))
        among = complete(engine, *others[:8], ask(Prompt.chat(question), max_new_tokens=80), *others[8:])[8]
        assert alone.token_ids == among.token_ids == want


def test_one_seed_gives_the_same_answer_whatever_runs_beside_it(open_engine, embedded: LoadedModel) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(embedded)
    requests = [
        ask(Prompt.chat(QUESTIONS[1]), f"s{seed}", temperature=2.0, seed=seed, max_new_tokens=60)
        for seed in range(12)
    ]
    together = complete(engine, *requests)
    alone = [complete(engine, request)[0] for request in requests[:4]]
    assert [item.token_ids for item in together[:4]] == [item.token_ids for item in alone]
    assert len({item.token_ids for item in together}) > 1
