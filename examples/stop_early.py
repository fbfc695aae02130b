"""Stop thinking once the answer is known, inside plain `model.generate`.

python examples/stop_early.py
python examples/stop_early.py Qwen/Qwen3-0.6B
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.stopping import EarlyExit

QUESTIONS = ["What is 7+8?", "What is 47+58-3*6?", "What is 12*11+5?"]


def main(name: str = str(REASONER_PATH)) -> None:
    """Think about a few questions with and without an early exit, and show what it saves."""
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    inputs = tokenizer.apply_chat_template(
        chats,
        add_generation_prompt=True,
        enable_thinking=True,
        padding=True,
        return_tensors="pt",
        return_dict=True,
    )
    early_exit = EarlyExit(tokenizer)  # new: the settings that lie beside the model, else a careful default
    for label, options in (("plain", {}), ("early exit", {"custom_generate": early_exit})):  # new
        output = model.generate(**inputs, max_new_tokens=256, do_sample=False, **options)
        answers = output[:, inputs["input_ids"].shape[1] :]
        print(f"{label}: {int((answers != tokenizer.pad_token_id).sum())} tokens")
    for question, report, ids in zip(QUESTIONS, early_exit.reports, answers, strict=True):
        usage = report.usage
        print(
            f"\n{question}  ->  {report.answer}   {report.verdict.reason if report.verdict else 'ended by itself'}"
        )
        print(f"  sampled {usage.sampled}, forced {usage.forced}, probes {usage.probe} tokens")
        print(f"  {tokenizer.decode(ids, skip_special_tokens=True)[-60:]!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
