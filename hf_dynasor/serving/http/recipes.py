"""From a client's `dynasor` field to a recipe. Clients name things; they never reach files or code of the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hf_dynasor.certaindex import Thresholds
from hf_dynasor.errors import HFDynasorError
from hf_dynasor.recipe import Recipe
from hf_dynasor.scheduler import POLICIES
from hf_dynasor.serving.http import wire
from hf_dynasor.serving.http.errors import bad_request

# What a program samples one by one takes as much room as it has units; the others are one stream at a time.
_PARALLEL_UNITS = frozenset({"samples", "width"})
_PLAIN = (bool, int, float, str, type(None))


def build_recipe(base: Recipe, options: wire.DynasorOptions, fields: Mapping[str, Any]) -> Recipe:
    """The server's recipe with what the client changed.

    Args:
        base: The server's defaults.
        options: The client's `dynasor` field.
        fields: Sampling fields of the recipe that the client set.

    Raises:
        ApiError: 400, an unknown name, a value out of range, or a combination that cannot work.
    """
    if options.policy is not None and options.policy not in POLICIES:
        known = ", ".join(sorted(POLICIES))
        raise bad_request(f"Unknown policy {options.policy!r}. Known: {known}.", param="dynasor.policy")
    _check_plain(options.options)
    changes: dict[str, Any] = dict(fields)
    is_other = options.program not in (None, base.program)
    if is_other:  # the server's policy and budget were chosen for its own program
        changes |= {
            "program": options.program,
            "policy": None,
            "budget": None,
            "preset": None,
            "thresholds": None,
            "detect_at": None,
            "max_tokens": None,
            "program_options": {},
        }
    if options.policy is not None:
        changes |= {"policy": options.policy, "preset": None, "thresholds": None, "detect_at": None}
    for name in ("budget", "detect_at", "instruction"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.options:
        changes["program_options"] = {
            **changes.get("program_options", base.program_options),
            **options.options,
        }
    try:
        if options.certaindex is not None:
            changes |= {"thresholds": _read_thresholds(options.certaindex), "preset": None}
        return replace(base, **changes)
    except HFDynasorError as error:
        raise bad_request(str(error), param="dynasor", code="invalid_value") from None


def count_units(recipe: Recipe) -> int:
    """Requests that a program of this recipe may have in the engine at once."""
    knob = recipe.build("What is 1+1?")[0].knob
    return knob.maximum if knob.unit in _PARALLEL_UNITS else 1


def _read_thresholds(values: Mapping[str, float]) -> Thresholds:
    try:
        return Thresholds(**values)
    except TypeError:
        raise bad_request(
            f"Got the certaindex signals {sorted(values)} but expected some of entropy, agreement, "
            "answer_probability, reward.",
            param="dynasor.certaindex",
        ) from None


def _check_plain(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        is_path = isinstance(value, str) and (
            len(value) > 200 or "/" in value or "\\" in value or "." in value
        )
        if not isinstance(value, _PLAIN) or is_path:
            raise bad_request(
                f"Got dynasor.options.{name} = {value!r} but expected a number, true, false or a plain name.",
                param=f"dynasor.options.{name}",
            )
