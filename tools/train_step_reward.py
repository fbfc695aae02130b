"""Trains the step reward model that ships beside the embedded reasoner.

Run from the repository root, after the reasoner is trained: `python tools/train_step_reward.py`. The model is the
reasoner with further layers on top and one score at every token. The reasoner's own layers stay frozen, so that
the new ones read, at a digit, what the reasoner expected in its place, and learn to compare the two: the reasoner's
own likelihood is their teacher, right and wrong chains give the labels.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from embedded_training.optimization import MuonAdamW  # noqa: E402
from embedded_training.reward_data import (  # noqa: E402
    RewardBatch,
    iterate_reward_batches,
    sample_own_rows,
)
from embedded_training.sampling import Reasoner  # noqa: E402

from hf_dynasor.embedded import REASONER_PATH, STEP_REWARD_PATH  # noqa: E402


def main() -> None:
    """Samples, trains, logs and saves."""
    args = _parse_args()
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    reasoner = Reasoner.load(args.reasoner, device=args.device)
    own_rows = sample_own_rows(
        reasoner, num_problems=args.num_own_problems, num_samples=args.num_own_samples, seed=args.seed
    )
    print(f"own rows {len(own_rows)}", flush=True)
    model = build_reward_model(reasoner, num_new_layers=args.num_new_layers).to(args.device)
    trainer = RewardTrainer(model, reasoner, device=args.device)
    trained = torch.nn.ModuleList([model, trainer.teacher_head])
    optimizer = MuonAdamW(trained, learning_rate=args.learning_rate, num_steps=args.num_steps)
    batches = iterate_reward_batches(
        reasoner, own_rows, tokens_per_batch=args.tokens_per_batch, seed=args.seed
    )
    started, losses = time.monotonic(), []
    for step in range(1, args.num_steps + 1):
        loss = trainer.loss(next(batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % args.log_every == 0:
            mean = sum(losses[-args.log_every :]) / args.log_every
            print(f"step {step} loss {mean:.4f} seconds {time.monotonic() - started:.0f}", flush=True)
        if step % args.save_every == 0:
            save(model, reasoner, args.output)
    save(model, reasoner, args.output)


def build_reward_model(reasoner: Reasoner, *, num_new_layers: int) -> LlamaForSequenceClassification:
    """Returns the reasoner's layers, frozen, with new layers on top that start as the identity."""
    label = "right_so_far"
    config = LlamaConfig(
        **{**reasoner.model.config.to_dict(), "id2label": {0: label}, "label2id": {label: 0}}
    )
    num_frozen = config.num_hidden_layers
    config.num_hidden_layers = num_frozen + num_new_layers
    config.architectures = None
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(reasoner.model.model.state_dict(), strict=False)
    for layer in model.model.layers[num_frozen:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    model.model.embed_tokens.requires_grad_(False)
    for layer in model.model.layers[:num_frozen]:
        layer.requires_grad_(False)
    return model


class RewardTrainer:
    """Computes the loss: every token's own label, and, for the first new layer, what the reasoner thinks of the token.

    The second part (a head of its own that is thrown away) teaches the first new layer to compare a token with the
    reasoner's expectation: its target is the probability that the reasoner gives to the token.
    """

    def __init__(self, model: LlamaForSequenceClassification, reasoner: Reasoner, *, device: str) -> None:
        self._model, self._teacher, self._device = model, reasoner.model, device
        self._depth = reasoner.model.config.num_hidden_layers
        size = model.config.hidden_size
        self.teacher_head = torch.nn.Sequential(torch.nn.RMSNorm(size), torch.nn.Linear(size, 1)).to(device)

    def loss(self, batch: RewardBatch) -> torch.Tensor:
        """Returns the weighted mean binary cross-entropy over the tokens of chains."""
        ids, labels, weights = (
            tensor.to(self._device) for tensor in (batch.input_ids, batch.labels, batch.weights)
        )
        with torch.autocast(torch.device(self._device).type, dtype=torch.bfloat16):
            output = self._model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            scores = self._model.score(output.last_hidden_state)[..., 0].float()
            expected = self._expect(output.hidden_states[self._depth], ids)
            guesses = self.teacher_head(output.hidden_states[self._depth + 1])[:, 1:, 0].float()
        own = _weighted_cross_entropy(scores, labels, weights)
        return own + _weighted_cross_entropy(guesses, expected, weights[:, 1:])

    @torch.no_grad()
    def _expect(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Returns the reasoner's probability of each token but the first, of shape (rows, length - 1)."""
        logits = self._teacher.lm_head(self._teacher.model.norm(hidden[:, :-1])).float()
        return logits.softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def _weighted_cross_entropy(
    scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return (losses * weights).sum() / weights.sum()


def save(model: LlamaForSequenceClassification, reasoner: Reasoner, folder: Path) -> None:
    """Writes a complete model folder with weights in bfloat16; the model in training stays in float32."""
    copy = LlamaForSequenceClassification(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    reasoner.tokenizer.save_pretrained(folder)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--reasoner", type=Path, default=REASONER_PATH, help="folder of the trained reasoner")
    parser.add_argument("--output", type=Path, default=STEP_REWARD_PATH, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=1500)
    parser.add_argument("--num-new-layers", type=int, default=2)
    parser.add_argument("--num-own-problems", type=int, default=1500)
    parser.add_argument("--num-own-samples", type=int, default=2, help="chains for each of these problems")
    parser.add_argument("--tokens-per-batch", type=int, default=4096, help="padding included")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
