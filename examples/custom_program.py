"""An algorithm of your own: write a chain, then rewrite the best one from its weakest step on, again and again.

python examples/custom_program.py
"""

from dataclasses import replace

from hf_dynasor import Certaindex, Even, Knob, Prompt, ReasoningProgram, SamplingParams, make_engine, run
from hf_dynasor.answers import extract_answer, group_answers
from hf_dynasor.certaindex import normalised_entropy
from hf_dynasor.core import Generate
from hf_dynasor.program import derive_seed
from hf_dynasor.programs import LikelihoodReward
from hf_dynasor.programs.pieces import read_piece


class Repair(ReasoningProgram):
    """Its knob is attempts; its answer is that of the chain whose weakest step is the strongest."""

    name = "repair"
    signals = frozenset({"entropy", "reward"})

    def __init__(self, prompt, *, budget=6, sampling, label="question"):
        super().__init__(label=label, knob=Knob(unit="attempts", maximum=budget))
        self.prompt, self.sampling = prompt, sampling
        self.chains = []  # rewards of the steps, the steps, the answer

    def execute(self, grant):
        for number in range(len(self.chains), len(self.chains) + grant):
            rewards, steps, _ = self.find_best()
            kept = steps[: rewards.index(min(rewards))]
            prompt = Prompt((*self.prompt.segments, *(step.segment for step in kept)))
            sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, number), logprobs=True)
            key = self.key(f"attempt-{number}")
            completion = yield (Generate(key=key, prompt=prompt, sampling=sampling),)
            steps = [*kept, *read_piece(completion, "\n\n").cut("\n\n")]
            rewards = [LikelihoodReward().read_piece(step) or 0.0 for step in steps]
            self.chains.append((rewards, steps, extract_answer("".join(step.text for step in steps))))

    def find_best(self):
        return max(self.chains, key=lambda chain: min(chain[0]), default=([1.0], [], None))

    def update_certaindex(self):
        groups = group_answers([answer for _, _, answer in self.chains])
        best = min(self.find_best()[0])
        self.certaindex = Certaindex(entropy=normalised_entropy(groups.sizes), reward=best)

    def select_answer(self):
        return self.find_best()[2]


if __name__ == "__main__":
    with make_engine("embedded", engine="generate") as engine:
        program = Repair(Prompt.chat("What is 83*47-159?"), sampling=SamplingParams(seed=0))
        answer = run(program, engine, Even())
        for rewards, steps, _ in program.chains:
            print(f"{min(rewards):.2f}  " + "  ".join(step.text.strip() for step in steps))
        print(f"answer {answer.text}, {answer.usage.net_tokens} net tokens")
