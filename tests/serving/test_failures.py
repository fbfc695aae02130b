"""Engines that fail: every request hears of it, `check_health` says why, and the model is left as it was."""

from __future__ import annotations

import logging

import pytest
import torch

from hf_dynasor.core import Event, FinishReason
from hf_dynasor.errors import EngineError, UnsupportedError
from hf_dynasor.serving import (
    ContinuousBatchingEngine,
    GenerateEngine,
    LoadedModel,
    factory,
    local_engine,
    make_engine,
)
from hf_dynasor.serving import _transformers_internals as internals
from hf_dynasor.serving.failures import describe_death, is_out_of_memory
from hf_dynasor.serving.loading import prepare
from hf_dynasor.serving.local_engine import LocalEngine
from tests.serving.kit import Collector, ask, complete, generate_plainly, make_model, make_tokenizer


def load_broken(error: Exception, num_good: int = 3) -> LoadedModel:
    """A model whose forward raises after so many."""
    tokenizer = make_tokenizer()
    broken = prepare(LoadedModel(model=make_model(tokenizer), tokenizer=tokenizer, name="tiny"))
    calls = iter(range(1000))

    def fail(*args: object) -> None:
        if next(calls) >= num_good:
            raise error

    broken.model.register_forward_pre_hook(fail)
    return broken


def test_a_failing_model_fails_its_requests_and_the_engine_says_so(open_engine) -> None:  # type: ignore[no-untyped-def]
    engine = open_engine(load_broken(RuntimeError("out of memory")))
    done = complete(engine, *(ask("abc", f"r{index}", max_new_tokens=50) for index in range(4)))
    for item in done:
        assert item.finish_reason is FinishReason.FAILED
        assert item.error is not None
        assert "out of memory" in item.error
        assert len(item.token_ids) == 3
    with pytest.raises(EngineError, match="out of memory"):
        engine.check_health()
    with pytest.raises(EngineError, match="out of memory"):
        engine.submit([ask("abc")], Collector())


def test_a_broken_sink_ends_only_its_own_requests(engine: LocalEngine) -> None:
    def sink(event: object) -> None:
        raise RuntimeError("event loop is closed")

    engine.submit([ask("abc", "bad", stream=True, max_new_tokens=100)], sink)
    (good,) = complete(engine, ask("abc", "good", max_new_tokens=10))
    assert good.finish_reason is FinishReason.LENGTH
    engine.check_health()


def test_the_first_failed_completion_finds_the_engine_dead(open_engine) -> None:  # type: ignore[no-untyped-def]
    """A driver that checks the engine when a request failed must hear the cause, not "all is well"."""
    engine = open_engine(load_broken(RuntimeError("a chip melted")))
    said: list[str] = []

    def sink(event: Event) -> None:
        with pytest.raises(EngineError) as caught:
            engine.check_health()
        said.append(str(caught.value))
        collector(event)

    collector = Collector()
    engine.submit([ask("abc", f"r{index}", max_new_tokens=50) for index in range(4)], sink)
    assert {item.finish_reason for item in collector.wait(4).values()} == {FinishReason.FAILED}
    assert len(said) == 4
    assert "RuntimeError: a chip melted" in said[0]
    assert len(set(said)) == 1


def test_health_says_what_to_do(open_engine) -> None:  # type: ignore[no-untyped-def]
    """It said `died: ...` only; whether to wait, retry or build a new engine was anybody's guess."""
    engine = open_engine(load_broken(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    complete(engine, ask("abc", max_new_tokens=50))
    size = "num_blocks" if "continuous" in engine.name else "max_batch_size"
    with pytest.raises(
        EngineError, match=rf"every request in flight failed.*make a new engine with a lower {size}"
    ):
        engine.check_health()
    assert "lower" not in describe_death(ValueError("no"), sizes="num_blocks")


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("Tried to allocate"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, answer: bool) -> None:
    assert is_out_of_memory(error) is answer


def run_out_of_memory(*args: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_cache_that_does_not_fit_leaves_the_model_as_it_was(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error was a raw OutOfMemoryError, and the user's model kept our attention implementation."""
    monkeypatch.setattr(internals.loop.PagedManager, "warmup", run_out_of_memory)
    with pytest.raises(
        UnsupportedError, match=r"num_blocks=64.*Tried to allocate.*Lower num_blocks.*engine='generate'"
    ):
        ContinuousBatchingEngine(loaded, num_blocks=64)
    assert loaded.model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(internals.loop.PagedManager, "warmup", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ContinuousBatchingEngine(loaded, num_blocks=64)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_a_failed_engine_does_not_take_the_attention_from_a_running_one(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = generate_plainly(loaded, [5, 6, 7], 12)
    with ContinuousBatchingEngine(loaded, num_blocks=64) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(internals.loop.PagedManager, "warmup", run_out_of_memory)
            with pytest.raises(UnsupportedError):
                ContinuousBatchingEngine(loaded, num_blocks=64)
        assert loaded.model.config._attn_implementation == "hf_dynasor_paged"
        assert complete(engine, ask([5, 6, 7], max_new_tokens=12))[0].token_ids == want
    assert loaded.model.config._attn_implementation == "sdpa"


def test_auto_falls_back_when_the_cache_does_not_fit(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(internals.loop.PagedManager, "warmup", run_out_of_memory)
    monkeypatch.setattr(factory, "_is_on_cuda", lambda loaded: True)
    with caplog.at_level(logging.WARNING), make_engine(loaded) as engine:  # type: ignore[attr-defined]
        assert isinstance(engine, GenerateEngine)
    assert "Lower num_blocks" in caplog.text


def test_an_engine_that_cannot_be_made_gives_everything_back(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop was made first; where the tokenizer then failed, the model stayed changed."""
    monkeypatch.setattr(local_engine, "PromptEncoder", run_out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        ContinuousBatchingEngine(loaded, num_blocks=64)
    assert loaded.model.config._attn_implementation == "sdpa"


def test_a_dead_engine_gives_the_attention_back_before_it_is_closed() -> None:
    broken = load_broken(RuntimeError("a chip melted"))
    with ContinuousBatchingEngine(broken, num_blocks=64) as engine:
        complete(engine, ask("abc", max_new_tokens=50))
        assert broken.model.config._attn_implementation == "sdpa"
    assert broken.model.config._attn_implementation == "sdpa"


def test_requests_that_cannot_all_be_queued_are_all_dropped(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones of a refused call ran on, and reported to a sink that was told they were not taken."""
    with ContinuousBatchingEngine(loaded, num_blocks=64) as engine:
        loop, collector = engine._paged.loop, Collector()
        add = loop.add

        def add_two(name: str, ids: list[int], max_new_tokens: int) -> None:
            if len(engine._paged._tracks) > 2:
                raise EngineError("no more")
            add(name, ids, max_new_tokens)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "add", add_two)
            with pytest.raises(EngineError, match="no more"):
                engine.submit([ask("abc", str(index), max_new_tokens=300) for index in range(4)], collector)
        assert not engine._paged._tracks
        assert engine.num_in_flight == 0
        (done,) = complete(engine, ask("abc", "0", max_new_tokens=5))
        assert len(done.token_ids) == 5
        assert collector.queue.empty()
