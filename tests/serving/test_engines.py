"""What both local engines promise, on a tiny random Llama."""

from __future__ import annotations

import random
import threading
import time

import pytest

from hf_dynasor.core import Cancel, FinishReason, Prompt, RequestKey, Score, TokenDelta, TokenIds
from hf_dynasor.engine import Ability, Engine
from hf_dynasor.errors import ConfigurationError, EngineError, UnsupportedError
from hf_dynasor.serving import LoadedModel
from hf_dynasor.serving.loading import prepare
from hf_dynasor.serving.local_engine import LocalEngine
from tests.serving.kit import Collector, ask, complete, generate_plainly, make_model, make_tokenizer

PROMPTS = [
    "What is 2+3?",
    "Größe",
    "a",
    "Wait, let me check: 12*7 = 84. And so on, and so on, and so on.",
    "東京🙂",
]


def test_it_is_an_engine(engine: LocalEngine) -> None:
    assert isinstance(engine, Engine)
    assert engine.name in ("generate(tiny)", "continuous(tiny)")
    assert {Ability.SEEDS, Ability.LOGPROBS, Ability.STREAM} <= engine.abilities
    engine.check_health()


def test_greedy_tokens_equal_plain_generate_alone_and_among_sixteen_others(
    engine: LocalEngine, loaded: LoadedModel
) -> None:
    others = [
        ask(f"{index} apples", f"o{index}", temperature=1.0, max_new_tokens=5 + index) for index in range(16)
    ]
    for prompt in PROMPTS:
        want = generate_plainly(loaded, loaded.tokenizer.encode(prompt), 24)
        (alone,) = complete(engine, ask(prompt, max_new_tokens=24))
        among = complete(engine, *others[:8], ask(prompt, max_new_tokens=24), *others[8:])[8]
        assert alone.token_ids == among.token_ids == want


def test_a_chat_goes_through_the_template(engine: LocalEngine, loaded: LoadedModel) -> None:
    ids = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "2+3?"}], add_generation_prompt=True, return_dict=False
    )
    (done,) = complete(engine, ask(Prompt.chat("2+3?")))
    assert done.token_ids == generate_plainly(loaded, ids, 16)
    assert done.usage.prompt == len(ids)


def test_one_seed_gives_the_same_tokens_whatever_runs_beside_it(engine: LocalEngine) -> None:
    def request(name: str, seed: int):  # type: ignore[no-untyped-def]
        return ask("What is 2+3?", name, temperature=0.9, top_p=0.95, top_k=50, seed=seed, max_new_tokens=30)

    (alone,) = complete(engine, request("r", 5))
    crowd = [
        ask(f"{index}", f"o{index}", temperature=2.0, max_new_tokens=3 * index + 1) for index in range(12)
    ]
    among = complete(engine, *crowd[:5], request("r", 5), *crowd[5:], request("twin", 5), request("other", 6))
    assert among[5].token_ids == among[13].token_ids == alone.token_ids
    assert among[14].token_ids != alone.token_ids


def test_requests_without_a_seed_differ(engine: LocalEngine) -> None:
    """False-alarm probability below 1e-20: the model's entropy is about 5 nats a token."""
    first, second = complete(
        engine, *(ask("a", str(index), temperature=1.0, max_new_tokens=30) for index in (0, 1))
    )
    assert first.token_ids != second.token_ids


def test_the_first_requests_settings_do_not_govern_later_ones(
    engine: LocalEngine, loaded: LoadedModel
) -> None:
    """transformers' own continuous batching samples all requests by the first one's settings."""
    complete(engine, ask("a", "hot", temperature=5.0, top_k=3, max_new_tokens=4))
    want = generate_plainly(loaded, loaded.tokenizer.encode("a"), 16)
    (greedy,) = complete(engine, ask("a", "cold"))
    (top_one,) = complete(engine, ask("a", "top", temperature=5.0, top_k=1))
    assert greedy.token_ids == top_one.token_ids == want


def test_length_is_exact_and_eos_ends_early(open_engine) -> None:  # type: ignore[no-untyped-def]
    tokenizer = make_tokenizer()
    endless = prepare(LoadedModel(model=make_model(tokenizer), tokenizer=tokenizer, name="tiny"))
    first = generate_plainly(endless, tokenizer.encode("abc"), 9)
    for length in (1, 2, 9):
        (done,) = complete(open_engine(), ask("abc", max_new_tokens=length))
        assert (done.finish_reason, done.token_ids) == (FinishReason.LENGTH, first[:length])
    index = next(i for i in range(2, 9) if first[i] not in first[:i])
    endless.generation_config.eos_token_id = first[index]
    (done,) = complete(open_engine(endless), ask("abc", max_new_tokens=9, logprobs=True))
    assert (done.finish_reason, done.token_ids) == (FinishReason.EOS, first[: index + 1])
    assert done.text == tokenizer.decode(first[:index])
    assert done.offsets is not None
    assert done.offsets[-1] == len(done.text)


def test_stop_strings_end_a_request_across_tokens(engine: LocalEngine) -> None:
    (free,) = complete(engine, ask("abc", max_new_tokens=40, temperature=1.0, seed=2))
    stop = next(free.text[i : i + 3] for i in range(5, 30) if "�" not in free.text[i : i + 3])
    (done,) = complete(engine, ask("abc", max_new_tokens=40, temperature=1.0, seed=2, stop=(stop, "never")))
    assert done.finish_reason is FinishReason.STOP
    assert done.text == free.text[: free.text.index(stop)]
    assert done.token_ids == free.token_ids[: len(done.token_ids)]
    assert len(done.token_ids) < len(free.token_ids)


def test_streamed_deltas_join_to_the_completion(engine: LocalEngine) -> None:
    requests = [
        ask(
            prompt, f"r{index}", stream=True, temperature=1.0, seed=index, max_new_tokens=40, stop=("zq", "7")
        )
        for index, prompt in enumerate(PROMPTS * 2)
    ]
    collector = Collector()
    engine.submit(requests, collector)
    done = collector.wait(len(requests))
    for key, completion in done.items():
        deltas = collector.deltas[key]
        assert "".join(delta.text for delta in deltas) == completion.text
        assert sum((delta.token_ids for delta in deltas), ()) == completion.token_ids


def test_logprobs_match_the_models_own(engine: LocalEngine, loaded: LoadedModel) -> None:
    import torch

    (done,) = complete(engine, ask("What is", temperature=0.5, top_k=5, seed=1, logprobs=True))
    prompt = loaded.tokenizer.encode("What is")
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*prompt, *done.token_ids]])).logits[0, len(prompt) - 1 : -1]
    want = torch.log_softmax(logits, -1).gather(1, torch.tensor(done.token_ids)[:, None])[:, 0]
    assert done.logprobs == pytest.approx(want.tolist(), abs=1e-4)


def test_usage_counts_probe_tokens_apart(engine: LocalEngine) -> None:
    plain, probe = complete(
        engine, ask("abc", "a", max_new_tokens=5), ask("abc", "b", max_new_tokens=4, probe=True)
    )
    assert (plain.usage.sampled, plain.usage.probe) == (5, 0)
    assert (probe.usage.sampled, probe.usage.probe) == (0, 4)


def test_equal_long_prompts_are_computed_once(engine: LocalEngine) -> None:
    """The account is exact: the first pays, the others reuse whole pages (all of it, in a padded batch)."""
    ids = list(range(3, 103))
    done = complete(engine, *(ask(ids, str(index), max_new_tokens=2, temperature=1.0) for index in range(5)))
    reused = 96 if "continuous" in engine.name else 100
    assert [item.usage.cached for item in done] == [0, reused, reused, reused, reused]
    assert all(item.usage.prompt == 100 for item in done)


def test_at_most_one_more_token_per_sample_after_cancel_returns(engine: LocalEngine) -> None:
    requests = [
        ask("abc", f"r{index}", temperature=1.0, max_new_tokens=480, stream=True) for index in range(8)
    ]
    collector = Collector()
    engine.submit(requests, collector)
    while len(collector.deltas) < len(requests):
        collector.take()
    engine.cancel([request.key for request in requests])
    drawn = engine.num_tokens_drawn  # type: ignore[attr-defined]
    done = collector.wait(len(requests))
    assert engine.num_tokens_drawn - drawn <= len(requests)  # type: ignore[attr-defined]
    cancelled = [item for item in done.values() if item.finish_reason is FinishReason.CANCELLED]
    assert cancelled
    assert all(item.usage.sampled == len(item.token_ids) > 0 for item in cancelled)
    (after,) = complete(engine, ask("abc", "after"))
    assert after.finish_reason is not FinishReason.CANCELLED


def test_a_request_cancelled_before_its_first_token_has_an_empty_account(engine: LocalEngine) -> None:
    requests = [ask("abc", f"r{index}", temperature=1.0, max_new_tokens=480) for index in range(3)]
    collector = Collector()
    engine.submit(requests, collector)
    engine.cancel([request.key for request in requests])
    engine.cancel([RequestKey(program_id="p", request_id="unknown")])
    done = collector.wait(3)
    for item in done.values():
        assert item.finish_reason is FinishReason.CANCELLED
        assert item.usage.prompt == (0 if not item.token_ids else item.usage.prompt)


def test_every_request_ends_once_under_random_cancels(engine: LocalEngine) -> None:
    collector = Collector()
    numbers = random.Random(3)
    keys: list[RequestKey] = []

    def submit(thread: int) -> None:
        for index in range(20):
            length = 1 + (7 * index) % 23
            request = ask(
                "abc" * (index % 7 + 1), f"{thread}-{index}", temperature=1.0, max_new_tokens=length
            )
            keys.append(request.key)
            engine.submit([request], collector)

    threads = [threading.Thread(target=submit, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        if keys:
            engine.cancel(numbers.sample(keys, min(3, len(keys))))
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    done = collector.wait(60)
    time.sleep(0.05)
    assert set(done) == set(keys)
    assert collector.num_completions == 60
    assert collector.queue.empty()
    assert engine.num_in_flight == 0


def test_close_ends_what_runs_and_refuses_what_comes(engine: LocalEngine) -> None:
    requests = [ask("abc", f"r{index}", temperature=1.0, max_new_tokens=400) for index in range(6)]
    collector = Collector()
    engine.submit(requests, collector)
    engine.close()
    engine.close()
    done = collector.wait(6)
    assert {item.finish_reason for item in done.values()} == {FinishReason.CANCELLED}
    with pytest.raises(EngineError, match="closed"):
        engine.submit([ask("abc")], collector)
    with pytest.raises(EngineError, match="closed"):
        engine.check_health()
    engine.cancel([requests[0].key])
    assert collector.queue.empty()


def test_a_key_in_flight_is_refused_and_nothing_of_the_call_is_taken(engine: LocalEngine) -> None:
    collector = Collector()
    engine.submit([ask("abc", "a", max_new_tokens=300)], collector)
    for requests in ([ask("abc", "b"), ask("abc", "a")], [ask("abc", "c"), ask("abc", "c")]):
        with pytest.raises(ConfigurationError, match="keys must be unique"):
            engine.submit(requests, collector)
    assert engine.num_in_flight == 1
    engine.cancel([ask("abc", "a").key])
    assert len(collector.wait(1)) == 1
    complete(engine, ask("abc", "a"))


def test_what_cannot_run_is_refused_at_once(engine: LocalEngine) -> None:
    collector = Collector()
    long = ask(list(range(3, 253)) * 2, max_new_tokens=13)
    with pytest.raises(ConfigurationError, match=r"500 tokens.*at most 512"):
        engine.submit([ask("abc", "fits"), long], collector)
    with pytest.raises(UnsupportedError, match="reward scores"):
        engine.submit([Score(key=long.key, prompt=Prompt.plain("a"))], collector)
    with pytest.raises(ConfigurationError, match="token id 5000"):
        engine.submit([ask(Prompt((TokenIds(ids=(5000,)),)))], collector)
    assert engine.num_in_flight == 0
    engine.submit([], collector)


def test_a_text_that_cannot_be_encoded_is_refused(engine: LocalEngine) -> None:
    """A lone surrogate in a question came out of `submit` as a TypeError of the tokenizer."""
    for prompt in (Prompt.plain("ab\ud800"), Prompt.chat("ab\ud800")):
        with pytest.raises(ConfigurationError, match=r"U\+D800 at position 2"):
            engine.submit([ask("abc", "fits"), ask(prompt, "bad")], Collector())
    assert engine.num_in_flight == 0


def test_messages_are_never_changed_after_delivery(engine: LocalEngine) -> None:
    collector = Collector()
    engine.submit([ask("abc", stream=True)], collector)
    first = collector.take()
    before = repr(first)
    collector.wait(1)
    assert isinstance(first, TokenDelta)
    assert repr(first) == before
    assert Cancel(keys=(first.key,)).keys == (first.key,)
