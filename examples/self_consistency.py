"""Self-consistency that stops when it is certain, on the embedded reasoner or a model of yours.

python examples/self_consistency.py
python examples/self_consistency.py Qwen/Qwen3-0.6B
"""

import sys

from hf_dynasor import Prompt, SamplingParams, SelfConsistency, StaticThreshold, Thresholds, make_engine, run

QUESTIONS = ["What is 7+8?", "What is 83*47-159?", "What is 4821*7396?"]


def main(model: str = "embedded") -> None:
    """Ask an easy, a harder and a hopeless question, and show what each one was granted."""
    policy = StaticThreshold(thresholds=Thresholds(entropy=0.7), detect_at=5)
    sampling = SamplingParams(max_new_tokens=512, temperature=0.7, seed=0)
    engine = make_engine(model, engine="generate")
    try:
        for question in QUESTIONS:
            program = SelfConsistency(Prompt.chat(question), budget=20, sampling=sampling)
            answer = run(program, engine, policy)
            grants = "+".join(str(grant.units) for grant in answer.trace)
            print(
                f"{question:24} {answer.text:>12}  samples {grants:5}  net tokens {answer.usage.net_tokens:5}  ",
                end="",
            )
            print(f"entropy {answer.certaindex.entropy:.2f}  stopped: {answer.stop_reason.value}")
    finally:
        engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
