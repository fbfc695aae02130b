"""Trains the embedded reasoner from scratch on generated arithmetic, on the CPU or a GPU.

Run from the repository root: `python tools/train_reasoner.py --output OUT`. The seed, the number of steps and the
batch size decide everything but rounding. Checkpoints are complete model folders.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from embedded_training.batches import Batch, iterate_batches  # noqa: E402
from embedded_training.examples import sample_texts  # noqa: E402
from embedded_training.optimization import MuonAdamW  # noqa: E402
from embedded_training.tokenizer import MAX_LENGTH, train_tokenizer  # noqa: E402

MAX_NEW_TOKENS = 512
_NUM_TOKENIZER_TEXTS = 40_000


def main() -> None:
    """Trains, logs and saves."""
    args = _parse_args()
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    tokenizer = train_tokenizer(
        sample_texts(_NUM_TOKENIZER_TEXTS, seed=args.seed), vocab_size=args.vocab_size
    )
    model = build_model(tokenizer, args).to(args.device)
    if args.compile:
        model.model.compile(dynamic=True)
    optimizer = MuonAdamW(model, learning_rate=args.learning_rate, num_steps=args.num_steps)
    batches = iterate_batches(tokenizer, tokens_per_batch=args.tokens_per_batch, seed=args.seed)
    started, num_tokens, losses = time.monotonic(), 0, []
    for step in range(1, args.num_steps + 1):
        batch = next(batches)
        loss = weighted_loss(model, batch, device=args.device)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        num_tokens += batch.input_ids.numel()
        if step % args.log_every == 0:
            rate = num_tokens / (time.monotonic() - started)
            mean = sum(losses[-args.log_every :]) / args.log_every
            print(f"step {step} loss {mean:.4f} tokens {num_tokens} tokens/s {rate:.0f}", flush=True)
        if step % args.save_every == 0:
            save(model, tokenizer, args.output)
    save(model, tokenizer, args.output)


def build_model(tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace) -> LlamaForCausalLM:
    """Returns an untrained model for the tokenizer, with tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.hidden_size,
        intermediate_size=args.intermediate_size,
        num_hidden_layers=args.num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=args.attention,
    )
    return LlamaForCausalLM(config)


def weighted_loss(model: LlamaForCausalLM, batch: Batch, *, device: str) -> torch.Tensor:
    """Returns the weighted mean cross-entropy of the targets; logits are computed for targets alone.

    Padding is on the right, so the causal mask alone hides it from every real token.
    """
    input_ids, weights = batch.input_ids.to(device), batch.weights[:, 1:].to(device)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        hidden = model.model(input_ids=input_ids[:, :-1], use_cache=False).last_hidden_state
        chosen = weights > 0
        logits = model.lm_head(hidden[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, input_ids[:, 1:][chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights[chosen].sum()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a complete model folder with weights in bfloat16; the model in training stays in float32."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    copy.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=6800)
    parser.add_argument("--tokens-per-batch", type=int, default=4096, help="padding included")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--intermediate-size", type=int, default=640)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="eager")
    parser.add_argument("--compile", action="store_true", help="compile the model: a fifth faster on the CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=200)
    return parser.parse_args()


if __name__ == "__main__":
    main()
