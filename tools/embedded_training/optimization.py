"""Optimiser of the embedded models: Muon for the matrices, AdamW for the rest, warm-up and cosine decay."""

from __future__ import annotations

import math

import torch
from torch import nn

_MATRIX_NAMES = ("self_attn", "mlp")


class MuonAdamW:
    """Muon and AdamW under one learning-rate schedule.

    Args:
        model: The model to train.
        learning_rate: Peak, for both; Muon's is adjusted to AdamW's root mean square.
        num_steps: Length of the schedule: linear warm-up, then cosine down to 2% of the peak.
        num_warmup_steps: Length of the warm-up.
    """

    def __init__(
        self, model: nn.Module, *, learning_rate: float, num_steps: int, num_warmup_steps: int = 100
    ) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for name, parameter in model.named_parameters() if _is_matrix(name, parameter)]
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in self._parameters if id(parameter) not in chosen]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self._peak, self._num_steps, self._num_warmup_steps = learning_rate, num_steps, num_warmup_steps
        self._step = 0

    def step(self) -> None:
        """Clips the gradients to norm 1, updates, and clears them."""
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        rate = self._peak * self._schedule()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._step += 1

    def _schedule(self) -> float:
        if self._step < self._num_warmup_steps:
            return (self._step + 1) / self._num_warmup_steps
        progress = (self._step - self._num_warmup_steps) / max(1, self._num_steps - self._num_warmup_steps)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.ndim == 2 and any(part in name for part in _MATRIX_NAMES)
