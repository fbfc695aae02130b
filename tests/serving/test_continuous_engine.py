"""What only continuous batching has: pages, shared beginnings, and private names of transformers."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref

import pytest

from hf_dynasor.core import FinishReason
from hf_dynasor.engine import Ability
from hf_dynasor.errors import ConfigurationError, UnsupportedError
from hf_dynasor.serving import ContinuousBatchingEngine, LoadedModel
from hf_dynasor.serving import _transformers_internals as internals
from tests.serving.kit import Collector, ask, complete, generate_plainly


def wait_until_free(engine: ContinuousBatchingEngine, timeout_s: float = 10.0) -> internals.Pages:
    deadline = time.monotonic() + timeout_s
    while (pages := engine.count_pages()).free < pages.total and time.monotonic() < deadline:
        time.sleep(0.01)
    return pages


def test_every_name_that_is_relied_on_is_there(loaded: LoadedModel) -> None:
    """If this fails after an upgrade of transformers, read its continuous batching again before widening the range."""
    assert internals.transformers.__version__.startswith(
        tuple(f"{known}." for known in internals.KNOWN_VERSIONS)
    )
    for owner, names in internals.RELIED_ON.items():
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"
    internals.check_supported(loaded.model, "tiny")


def test_every_attribute_that_is_relied_on_is_there(loaded: LoadedModel) -> None:
    with ContinuousBatchingEngine(loaded) as engine:
        processor = engine._paged.loop._processor
        own = {"block_new_requests", "active_requests", "cache", "safety_margin", "_requests_to_cancel"}
        assert own <= set(vars(processor.scheduler))
        assert {"cache_allocators", "layer_to_allocator", "pool", "num_blocks"} <= set(vars(processor.cache))
        for allocator in processor.cache.cache_allocators.values():
            assert {"_kv_token_views", "ledger", "blocks_per_sector", "index", "block_table"} <= set(
                vars(allocator)
            )
            assert {"cached_blocks", "hash_to_block", "block_to_hash"} <= set(vars(allocator.ledger))


def test_another_release_of_transformers_is_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals.transformers, "__version__", "5.99.0")
    with pytest.raises(UnsupportedError, match=r"5\.23 but found 5\.99\.0.*GenerateEngine"):
        ContinuousBatchingEngine(loaded)


def test_cancelled_requests_give_their_pages_back(loaded: LoadedModel) -> None:
    with ContinuousBatchingEngine(loaded, num_blocks=256) as engine:
        assert Ability.PREFIX_REUSE in engine.abilities
        collector = Collector()
        requests = [
            ask([9, 8, 7 + index] * 20, f"r{index}", max_new_tokens=400, stream=True) for index in range(6)
        ]
        engine.submit(requests, collector)
        while len(collector.deltas) < 6:
            collector.take()
        used = engine.count_pages()
        assert used.total - used.free >= 6 * 3
        engine.cancel([request.key for request in requests])
        collector.wait(6)
        assert wait_until_free(engine).free == 256


def test_finished_and_stopped_requests_give_their_pages_back(loaded: LoadedModel) -> None:
    with ContinuousBatchingEngine(loaded, num_blocks=64) as engine:
        complete(engine, *(ask("abc", f"r{index}", max_new_tokens=5 + index) for index in range(9)))
        complete(
            engine, *(ask("abc", f"s{index}", stop=("a", "e", "1"), max_new_tokens=40) for index in range(9))
        )
        assert wait_until_free(engine).free == 64


def test_closing_frees_the_cache(loaded: LoadedModel) -> None:
    engine = ContinuousBatchingEngine(loaded, num_blocks=64)
    memory = weakref.ref(engine._paged.loop._processor.cache)
    complete(engine, ask("abc"))
    engine.close()
    gc.collect()
    assert memory() is None
    assert engine.count_pages().total == 0


def test_a_forgotten_engine_closes_itself(loaded: LoadedModel) -> None:
    engine = ContinuousBatchingEngine(loaded, num_blocks=64)
    thread = engine._paged.loop._thread
    del engine
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_generated_tokens_are_shared_with_a_prompt_that_continues_them(loaded: LoadedModel) -> None:
    """A probe re-computes at most one page and what it appends."""
    ids = list(range(3, 43))
    with ContinuousBatchingEngine(loaded) as engine:
        (first,) = complete(engine, ask(ids, "first", max_new_tokens=60))
        longer = [*ids, *first.token_ids, 5, 6]
        (probe,) = complete(engine, ask(longer, "probe", max_new_tokens=8, probe=True))
    assert (
        probe.usage.cached == 96
    )  # 40 + 60 tokens hold six whole pages, and the last token is in no page yet
    assert probe.token_ids == generate_plainly(loaded, longer, 8)


def test_a_prompt_is_shared_even_after_a_request_of_one_token(loaded: LoadedModel) -> None:
    """transformers alone forgets the pages of a request that ends in the step that fills them."""
    ids = list(range(3, 43))
    with ContinuousBatchingEngine(loaded) as engine:
        complete(engine, ask(ids, "one", max_new_tokens=1))
        (second,) = complete(engine, ask(ids, "two", max_new_tokens=1))
    assert second.usage.cached == 32


def test_requests_beyond_the_cache_are_restarted_not_lost(loaded: LoadedModel) -> None:
    """Together they need four times the pages that there are."""
    with ContinuousBatchingEngine(loaded, num_blocks=20) as engine:
        requests = [ask([5 + index] * 30, str(index), max_new_tokens=120) for index in range(8)]
        for request, done in zip(requests, complete(engine, *requests), strict=True):
            ids = list(request.prompt.segments[0].ids)  # type: ignore[union-attr]
            assert done.token_ids == generate_plainly(loaded, ids, 120)
            assert done.finish_reason in (FinishReason.LENGTH, FinishReason.EOS)


def test_a_request_larger_than_the_whole_cache_is_refused(loaded: LoadedModel) -> None:
    with (
        ContinuousBatchingEngine(loaded, num_blocks=10) as engine,
        pytest.raises(ConfigurationError, match=r"161 together, but the cache of this engine holds 160"),
    ):
        engine.submit([ask([5] * 100, max_new_tokens=61)], Collector())


def test_a_prompt_longer_than_a_step_is_split(loaded: LoadedModel) -> None:
    ids = [3 + (7 * index) % 200 for index in range(150)]
    with ContinuousBatchingEngine(loaded, max_batch_tokens=32) as engine:
        others = [ask("abc", str(index), max_new_tokens=20) for index in range(5)]
        done = complete(
            engine, *others, ask(ids, "long", max_new_tokens=10), ask(ids, "twin", max_new_tokens=10)
        )
    want = generate_plainly(loaded, ids, 10)
    assert done[5].token_ids == done[6].token_ids == want
    assert (done[5].usage.cached, done[6].usage.cached) == (0, 144)


SCRIPT = """
import sys
from hf_dynasor.serving import ContinuousBatchingEngine, GenerateEngine
from hf_dynasor.serving.loading import LoadedModel, prepare
from tests.serving.kit import ask, make_model, make_tokenizer
tokenizer = make_tokenizer()
loaded = prepare(LoadedModel(model=make_model(tokenizer), tokenizer=tokenizer, name="tiny"))
engines = [ContinuousBatchingEngine(loaded), GenerateEngine(loaded)]
ends = []
for engine in engines:
    engine.submit([ask("abc", max_new_tokens=500)], lambda event: ends.append(event.finish_reason.value))
sys.stdout.write("ready")
raise KeyboardInterrupt
"""


def test_an_interrupted_process_ends_with_its_engines_running() -> None:
    """transformers' own background thread keeps the process alive for good."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "ready"
    assert "KeyboardInterrupt" in done.stderr
    assert "Fatal" not in done.stderr


def test_private_names_that_cannot_be_imported_only_close_this_engine(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`import hf_dynasor.serving` must not depend on them."""
    import hf_dynasor.serving

    monkeypatch.delattr(hf_dynasor.serving, "_transformers_internals")
    monkeypatch.setitem(sys.modules, "hf_dynasor.serving._transformers_internals", None)
    with pytest.raises(UnsupportedError, match="GenerateEngine"):
        ContinuousBatchingEngine(loaded)


def test_sizes_below_one_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ConfigurationError, match="num_blocks = 0"):
        ContinuousBatchingEngine(loaded, num_blocks=0)


def test_the_models_attention_is_given_back_with_its_last_engine(loaded: LoadedModel) -> None:
    config = loaded.model.config
    assert config._attn_implementation == "sdpa"
    want = generate_plainly(loaded, [5, 6, 7], 12)
    with ContinuousBatchingEngine(loaded) as first:
        with ContinuousBatchingEngine(loaded) as second:
            assert config._attn_implementation != "sdpa"
            assert generate_plainly(loaded, [5, 6, 7], 12) == want
        second.close()
        (done,) = complete(first, ask([5, 6, 7], max_new_tokens=12))
        assert done.token_ids == want
    assert config._attn_implementation == "sdpa"


def test_a_model_with_eager_attention_runs_too(loaded: LoadedModel) -> None:
    loaded.model.set_attn_implementation("eager")
    try:
        with ContinuousBatchingEngine(loaded, num_blocks=64) as engine:
            done = complete(engine, *(ask([5 + index] * 20, str(index)) for index in range(4)))
        for index, item in enumerate(done):
            assert item.token_ids == generate_plainly(loaded, [5 + index] * 20, 16)
    finally:
        loaded.model.set_attn_implementation("sdpa")
