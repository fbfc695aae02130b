"""Runs other projects' own code against a server that speaks OpenAI's API; imports nothing of hf_dynasor.

It needs an environment of its own with `its_hub[lm]` and `optillm` (see docs/evaluation.md). Writes one line a question and
algorithm: what it answered, the tokens and requests that its client was told of. Started by benchmarks/peers.py.
"""

import argparse
import asyncio
import json
import logging
import re
import time
import warnings


def main():
    """Every algorithm on every question, one question at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="http://host:port/v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--questions", required=True, help="JSON lines with id and question")
    parser.add_argument("--output", required=True)
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    arguments = parser.parse_args()
    with open(arguments.questions, encoding="utf-8") as file:
        questions = [json.loads(line) for line in file]
    with open(arguments.output, "w", encoding="utf-8") as file:
        for name in arguments.algorithms:
            solve = ALGORITHMS[name](arguments)
            for question in questions:
                begin = time.monotonic()
                try:
                    row = solve(question["question"])
                except Exception as error:  # noqa: BLE001 -- what another project raises is part of the result
                    row = {
                        "text": None,
                        "tokens": 0,
                        "requests": 0,
                        "error": f"{type(error).__name__}: {error}",
                    }
                row |= {
                    "id": question["id"],
                    "algorithm": name,
                    "seconds": round(time.monotonic() - begin, 3),
                }
                file.write(json.dumps(row) + "\n")
                file.flush()


def make_its_hub(name):
    """An algorithm of its_hub, which votes on the boxed answer."""

    def make(arguments):
        from its_hub.core.algorithms import adaptive_self_consistency, beta_self_consistency, self_consistency
        from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel

        classes = {
            "self_consistency": self_consistency.SelfConsistency,
            "adaptive_self_consistency": adaptive_self_consistency.AdaptiveSelfConsistency,
            "beta_self_consistency": beta_self_consistency.BetaSelfConsistency,
        }
        lm = OpenAICompatibleLanguageModel(
            endpoint=arguments.url,
            api_key="none",
            model_name=arguments.model,
            temperature=arguments.temperature,
            max_completion_tokens=arguments.max_tokens,
        )
        # Else it sends vLLM's dialect, with a field "extra_body" in the body itself, which our server refuses by name.
        lm.endpoint_type = "openai"
        algorithm = classes[name](consistency_space_projection_func=project)

        def solve(question):
            result = asyncio.run(algorithm.ainfer(lm, question, arguments.budget, return_response_only=False))
            usage = result.usage
            return {
                "text": result.the_one.get("content"),
                "tokens": getattr(usage, "completion_tokens", None) or getattr(usage, "output_tokens", 0),
                "requests": len(result.responses),
            }

        return solve

    return make


def make_optillm(name):
    """An algorithm of optillm, with its own defaults where it takes no option."""

    def make(arguments):
        from openai import OpenAI
        from optillm.bon import best_of_n_sampling
        from optillm.self_consistency import AdvancedSelfConsistency

        client = OpenAI(base_url=arguments.url, api_key="none")
        limits = {"max_tokens": arguments.max_tokens}

        def vote(question):
            voter = AdvancedSelfConsistency(
                client, arguments.model, num_samples=arguments.budget, request_config=limits
            )
            clusters = voter.evaluate("", question)["aggregated_result"]["clusters"]
            text = clusters[0]["answer"] if clusters else None
            return {
                "text": text,
                "tokens": voter.self_consistency_completion_tokens,
                "requests": arguments.budget,
            }

        def best(question):
            text, tokens = best_of_n_sampling(
                "", question, client, arguments.model, n=arguments.budget, request_config=limits
            )
            return {"text": text, "tokens": tokens, "requests": 2 * arguments.budget}

        return {"self_consistency": vote, "best_of_n": best}[name]

    return make


def project(text):
    """What is voted on: the last boxed answer, else the last number, else the text."""
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return (boxed or numbers or [text])[-1].strip()


ALGORITHMS = {
    "its_hub self_consistency": make_its_hub("self_consistency"),
    "its_hub adaptive_self_consistency": make_its_hub("adaptive_self_consistency"),
    "its_hub beta_self_consistency": make_its_hub("beta_self_consistency"),
    "optillm self_consistency": make_optillm("self_consistency"),
    "optillm best_of_n": make_optillm("best_of_n"),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)  # clients that are not closed, a line each
    main()
