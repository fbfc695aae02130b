"""The one folder that touches private names of transformers' continuous batching.

It knows requests by name, token ids and pages, but no prompts, texts or sampling. What it relies on is listed in
`RELIED_ON` and checked by a test; other releases of transformers are refused, not guessed at.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers.generation.continuous_batching import (
    cache,
    continuous_api,
    distributed,
    input_outputs,
    model_runner,
    requests,
    scheduler,
)
from transformers.generation.continuous_batching.cache_allocators import (
    FullAttentionCacheAllocator,
    cache_pool,
)
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from hf_dynasor.errors import UnsupportedError
from hf_dynasor.serving._transformers_internals.loop import PagedLoop, Pages

__all__ = ["KNOWN_VERSIONS", "RELIED_ON", "PagedLoop", "Pages", "check_supported"]

KNOWN_VERSIONS = ("5.23",)
RELIED_ON = {
    continuous_api.ContinuousBatchingManager: (
        "warmup", "stop", "destroy", "add_request", "cancel_request", "_run_generation_loop",
        "switch_to_cb_friendly_attn",
    ),
    continuous_api.BackgroundThreadStatus: ("clear", "request_stop", "HARD_STOP"),
    distributed.DistributedHelper: ("infer_if_tp_driver", "tp_all_reduce_state", "tp_broadcast_object_from_rank_0"),
    continuous_api.OutputRouter: ("deliver", "deliver_batch"),
    scheduler.FIFOScheduler: (
        "_infer_request_tokens", "_schedule_request", "_process_candidates", "_cleanup_waiting_queue", "schedule_batch",
        "add_waiting_request", "finish_request", "clear_cancelled_requests", "_try_to_meet_safety_margin",
    ),
    requests.RequestState: ("create_equivalent_initial_request", "status"),
    cache.PagedAttentionCache: ("update", "free_blocks", "compute_free_capacity"),
    cache_pool.CachePool: ("free_blocks", "try_to_free_sectors"),
    FullAttentionCacheAllocator: ("register_cache_tensor", "update"),
    model_runner.ModelRunner: ("_sample", "compute_batch"),
    input_outputs.ContinuousBatchingIOs: ("get_model_kwargs",),
    ContinuousBatchingLogitsProcessor: ("fill_defaults", "prepare_tensor_args", "__call__"),
}  # fmt: skip


def check_supported(model: Any, name: str) -> None:
    """Raise `UnsupportedError` if continuous batching cannot run a model here, naming the engine that can."""
    advice = "Use GenerateEngine instead (engine='generate')."
    version = transformers.__version__
    if not version.startswith(tuple(f"{known}." for known in KNOWN_VERSIONS)):
        known = ", ".join(KNOWN_VERSIONS)
        raise UnsupportedError(
            f"ContinuousBatchingEngine knows the internals of transformers {known} but found {version}. {advice}"
        )
    if not getattr(model, "_supports_attention_backend", False):
        raise UnsupportedError(f"The attention of {name} cannot read shared pages. {advice}")
    missing = [
        f"{owner.__name__}.{attribute}"
        for owner, names in RELIED_ON.items()
        for attribute in names
        if not hasattr(owner, attribute)
    ]
    if missing:
        raise UnsupportedError(f"transformers {version} has no {', '.join(missing)}. {advice}")
