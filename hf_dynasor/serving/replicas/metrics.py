"""Metrics of all replicas on one page: each sample with the name of the replica that it is of."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


def merge_metrics(pages: Mapping[str, str]) -> str:
    """One Prometheus page of several.

    Args:
        pages: Each replica's page.

    Examples:
        >>> page = "# HELP x_total Some.\\n# TYPE x_total counter\\nx_total 3.0\\n"
        >>> print(merge_metrics({"a": page, "b": page}), end="")
        # HELP x_total Some.
        # TYPE x_total counter
        x_total{replica="a"} 3.0
        x_total{replica="b"} 3.0
    """
    heads: dict[str, str] = {}
    samples: dict[str, list[str]] = {}
    for replica, page in sorted(pages.items()):
        for family in text_string_to_metric_families(page):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            heads.setdefault(name, f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n")
            for sample in family.samples:
                labels = {**sample.labels, "replica": replica}
                shown = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
                samples.setdefault(name, []).append(f"{sample.name}{{{shown}}} {sample.value}\n")
    return "".join(head + "".join(samples[name]) for name, head in heads.items() if name in samples)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


__all__ = ["merge_metrics"]
