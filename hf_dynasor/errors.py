"""The error tree. A user's mistake names the value, the range and the fix.

HFDynasorError
├── ConfigurationError (ValueError)   a value, name or combination that cannot work
│   └── MissingExtraError             an optional dependency is not installed
├── InputError (ValueError)           a question, file or line that cannot be read
├── UnsupportedError                  an engine was asked for an ability that it does not declare
├── ModelLoadError                    a model could not be found, read or prepared
├── EngineError                       an engine stopped working or broke its contract
│   └── EngineTimeoutError            nothing came back within the bound
└── ProgramError                      a program or a policy broke its contract, or no path survived
"""

from __future__ import annotations

from collections.abc import Iterable


class HFDynasorError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(HFDynasorError, ValueError):
    """A value, name or combination of options that cannot work."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is needed and not installed."""


class InputError(HFDynasorError, ValueError):
    """A question, file or line that cannot be read."""


class UnsupportedError(HFDynasorError):
    """An engine was asked for an ability that it does not declare."""


class ModelLoadError(HFDynasorError):
    """A model could not be found, read or prepared."""


class EngineError(HFDynasorError):
    """An engine stopped working or broke its contract."""


class EngineTimeoutError(EngineError):
    """Nothing came back from an engine within the bound."""


class ProgramError(HFDynasorError):
    """A program or a policy broke its contract, or no path of a program survived."""


def name_unknown(kind: str, name: object, known: Iterable[str]) -> ConfigurationError:
    """The error for a name that is not in a table: it lists the ones that are.

    Examples:
        >>> str(name_unknown("policy", "statik", ["static", "even"]))
        "Unknown policy 'statik'. Known: even, static."
    """
    return ConfigurationError(f"Unknown {kind} {name!r}. Known: {', '.join(sorted(known))}.")
