"""Plain text for people: an answer, a report, a grant."""

from __future__ import annotations

from hf_dynasor.certaindex import Certaindex
from hf_dynasor.core import Usage
from hf_dynasor.evaluation import EvaluationReport, estimate_full_tokens
from hf_dynasor.grants import Answer, GrantRecord, describe_units


def describe_grant(number: int, record: GrantRecord, unit: str) -> str:
    """One line for one grant."""
    return (
        f"grant {number}: {describe_units(record.units, unit)} ({record.total} in all) -> "
        f"certaindex {describe_certaindex(record.certaindex)}; {record.usage.net_tokens:,} tokens"
    )


def describe_certaindex(certaindex: Certaindex) -> str:
    """The known signals in words."""
    signals = certaindex.signals
    return ", ".join(f"{name} {value:.2f}" for name, value in signals.items()) or "not known yet"


def describe_answer(answer: Answer, seconds: float) -> str:
    """The answer, why it stopped, and what it cost."""
    votes = ", ".join(f"{text} ({weight:g})" for text, weight in answer.votes[:5]) or "none"
    lines = [
        f"stopped: {answer.stop_reason.value} ({answer.explanation})",
        "",
        f"answer: {answer.text if answer.text is not None else 'none found'}",
        f"votes:  {votes}",
        f"tokens: {describe_usage(answer.usage)}; {answer.sequential_tokens:,} sequential",
        f"saved:  {_describe_saving(answer)}",
        f"time:   {seconds:.1f} s",
    ]
    return "\n".join(lines)


def describe_report(report: EvaluationReport) -> str:
    """Accuracy with its interval, and the tokens of a file of questions."""
    low, high = report.accuracy_interval
    num_right = sum(result.is_correct for result in report.results)
    net, full = report.usage.net_tokens, estimate_full_tokens(report)
    saved = f"{1 - net / full:.1%} (estimated: about {full:,} at the full budget)" if full else "unknown"
    lines = [
        f"accuracy:     {report.accuracy:.1%}  ({num_right} of {len(report.results)}; 95% interval {low:.1%} to {high:.1%})",
        f"tokens:       {describe_usage(report.usage)}",
        f"sequential:   {report.sequential_tokens:,} tokens",
        f"stopped early: {report.early_stop_rate:.1%} of the questions; saved {saved}",
        f"time:         {report.seconds:.1f} s",
    ]
    lines += [f"error:        {result.question.id}: {result.error}" for result in report.errors[:10]]
    return "\n".join(lines)


def describe_usage(usage: Usage) -> str:
    """The token account in one line."""
    parts = ", ".join(f"{name} {count:,}" for name, count in usage.to_dict().items() if name != "net_tokens")
    return f"{usage.net_tokens:,} net ({parts})"


def _describe_saving(answer: Answer) -> str:
    full = answer.full_budget_tokens
    if answer.unit == "tokens":
        return f"unknown: a chain may end by itself before its cap of {answer.budget:,} tokens"
    if not answer.is_early or not full:
        return f"nothing: the whole budget of {describe_units(answer.budget, answer.unit)} was spent"
    saved = full - answer.usage.net_tokens
    return (
        f"about {saved:,} of {full:,} tokens ({saved / full:.0%}) against the full budget of "
        f"{describe_units(answer.budget, answer.unit)}, by the mean so far"
    )
