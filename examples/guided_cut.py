"""QwQ guided and cut: the model is asked for its answer in mid-thought, and stopped when its answers agree.

python examples/guided_cut.py
python examples/guided_cut.py Qwen/Qwen3-0.6B
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_dynasor.embedded import REASONER_PATH
from hf_dynasor.stopping import AnswerConsistency, CutCriteria, GuidedProcessor


def main(name: str = str(REASONER_PATH), question: str = "What is 47+58-3*6?") -> None:
    """Print the guided chain of thought, and where it was cut."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        enable_thinking=True,
        return_tensors="pt",
        return_dict=True,
    )
    guided = GuidedProcessor(model, tokenizer, interval=32, resume="\n\nWait, let me double check.\n\n")
    cut = CutCriteria(guided, AnswerConsistency(window=2, interval=1))
    output = model.generate(
        **inputs, max_new_tokens=256, do_sample=False, logits_processor=[guided], stopping_criteria=[cut]
    )
    print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))
    print(f"\nanswers on the way: {guided.answers[0]}, {guided.num_forced[0]} tokens forced")
    print(*(f"  at {entry.num_tokens}: {entry.verdict.reason}" for entry in cut.traces[0]), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
