"""`model.generate` for models whose cache cannot lose rows (recurrent states): one batch from start to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from hf_dynasor.serving.left_out_settings import LEFT_OUT_SETTINGS
from hf_dynasor.serving.loading import LoadedModel

Draw = Callable[[torch.Tensor], "list[int | None]"]


class _RowDraw(LogitsProcessor):  # type: ignore[misc]
    """Asks for every row's next token and leaves nothing else possible; rows that are over get padding."""

    supports_continuous_batching = False

    def __init__(self, draw: Draw, num_rows: int, pad_token_id: int) -> None:
        self._draw = draw
        self._pad_token_id = pad_token_id
        self.is_over = [False] * num_rows

    def __call__(self, input_ids: Any, scores: Any) -> torch.Tensor:
        tokens = self._draw(scores)
        self.is_over = [token is None for token in tokens]
        chosen = [self._pad_token_id if token is None else token for token in tokens]
        index = torch.tensor(chosen, device=scores.device)[:, None]
        return torch.full_like(scores, float("-inf")).scatter(1, index, 0.0)


class _RowsOver(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows for which nothing was drawn."""

    supports_continuous_batching = False

    def __init__(self, rows: _RowDraw) -> None:
        self._rows = rows

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor(self._rows.is_over, device=input_ids.device)


def generate_rows(loaded: LoadedModel, prompts: Sequence[Sequence[int]], draw: Draw) -> None:
    """Generate for all prompts together until `draw` returns `None` for every row.

    Args:
        loaded: The model.
        prompts: Token ids; shorter ones are padded on the left.
        draw: From logits of shape (rows, vocabulary) to the next token of each row, `None` for rows that are
            over. It is asked once more after a row's last token, so it can tell.
    """
    length = max(len(prompt) for prompt in prompts)
    pad = loaded.pad_token_id
    device = loaded.input_device
    ids = torch.tensor([[pad] * (length - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
    rows = _RowDraw(draw, len(prompts), pad)
    with torch.inference_mode():
        loaded.model.generate(
            ids,
            attention_mask=mask,
            logits_processor=LogitsProcessorList([rows]),
            stopping_criteria=StoppingCriteriaList([_RowsOver(rows)]),
            **_make_neutral_settings(loaded),
        )


def _make_neutral_settings(loaded: LoadedModel) -> dict[str, Any]:
    """Settings under which `generate` only decodes, whatever the model's own generation config says.

    As keyword arguments: where a `GenerationConfig` that is passed says `None`, the model's own fills it in.
    """
    known = vars(GenerationConfig())
    neutral = {name: value for name, value in LEFT_OUT_SETTINGS.items() if name in known}
    # Ends by `draw`; the bound is only a net under it.
    return neutral | {
        "do_sample": False,
        "max_length": None,
        "max_new_tokens": 10**9,
        "pad_token_id": loaded.pad_token_id,
        "eos_token_id": sorted(loaded.eos_token_ids) or None,
        "use_cache": True,
        "cache_implementation": None,
        "return_dict_in_generate": False,
    }
