"""What a model's last layer holds at the end of a text: the activations that a small probe can be trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hf_dynasor.errors import ConfigurationError
from hf_dynasor.serving.loading import LoadedModel
from hf_dynasor.serving.prompt_logprobs import split_prompts


@torch.inference_mode()
def read_hidden_states(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    """The hidden state of each prompt's last token, from the last layer, behind its norm.

    Prompts are padded on the right, where no token of theirs looks.

    Args:
        loaded: The model, whole in this process.
        prompts: Each at least one id.

    Returns:
        For each prompt a vector of the model's width.

    Raises:
        ConfigurationError: A prompt without a token, or longer than the model's context.
        UnsupportedError: The model is split over processes.
    """
    loaded.check_whole("Reading hidden states")
    _check_lengths(loaded, prompts)
    states: dict[int, tuple[float, ...]] = {}
    for batch in split_prompts([len(prompt) for prompt in prompts], loaded.config.vocab_size):
        width = max(len(prompts[place]) for place in batch)
        rows = [[*prompts[place], *([0] * (width - len(prompts[place])))] for place in batch]
        masks = [[1] * len(prompts[place]) + [0] * (width - len(prompts[place])) for place in batch]
        output = loaded.model(
            input_ids=torch.tensor(rows, device=loaded.input_device),
            attention_mask=torch.tensor(masks, device=loaded.input_device),
            output_hidden_states=True,
            use_cache=False,
        )
        last = output.hidden_states[-1].float()
        for row, place in enumerate(batch):
            states[place] = tuple(last[row, len(prompts[place]) - 1].tolist())
    return [states[place] for place in range(len(prompts))]


def _check_lengths(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> None:
    most = loaded.max_context
    for place, prompt in enumerate(prompts):
        if not prompt or (most is not None and len(prompt) > most):
            raise ConfigurationError(
                f"Got prompt {place} of {len(prompt)} tokens but expected 1 to {most or 'any number'}."
            )
