"""What divides answers into groups: by key, by likeness of meaning, or by what code does. The first is the default.

The embedding model is loaded, and code is run, only where a caller makes such a grouper.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from hf_dynasor.answers.grouping import AnswerGroups, group_answers, group_by_keys
from hf_dynasor.answers.keys import AnswerFormat, AnswerKey, check_format
from hf_dynasor.answers.sandbox import Sandbox
from hf_dynasor.errors import ConfigurationError, MissingExtraError

MAX_CACHED = 1024

DEFAULT_THRESHOLD = 0.6
"""Mean cosine similarity of all-MiniLM-L6-v2 from which on two answers are one.

On 12 small Python tasks written in 3 ways each it puts all pairs together and no two tasks; on 6 explanations in 3
wordings each it finds 78% of the pairs and joins no two (0.5 finds all of them). It tells tasks apart, not a right
program from one with a small mistake: their embeddings are as close as two right ones. `OutputGrouper` tells those.
"""

Embedder: TypeAlias = Callable[[Sequence[str]], Any]
"""From texts to their vectors, one row each, as NumPy takes them."""


class Grouper(Protocol):
    """Divides answers into groups; every index ends in exactly one group, or missing."""

    @property
    def is_stable(self) -> bool:
        """Whether two answers are together or apart whatever other answers there are."""
        ...

    def group(self, answers: Sequence[str | None]) -> AnswerGroups:
        """The groups, largest first; of groups of one size, the first seen first."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyGrouper:
    """Equal keys are equal answers, see `hf_dynasor.answers.canonicalise`.

    Args:
        format: What answers are read as.
    """

    format: AnswerFormat = "auto"

    def __post_init__(self) -> None:
        check_format(self.format)

    @property
    def is_stable(self) -> bool:
        """True: the key of an answer depends on that answer alone."""
        return True

    def group(self, answers: Sequence[str | None]) -> AnswerGroups:
        """Groups of equal keys."""
        return group_answers(answers, format=self.format)


class OutputGrouper:
    """Two programs are one answer if they do the same on every example; code is run in a sandbox for that.

    A candidate that fails on every example says nothing and is missing.

    Args:
        calls: Expressions that try the candidates, such as `add(1, 2)`; at least one.
        sandbox: What shuts the candidates in. Read its page before running what a model wrote.

    Raises:
        ConfigurationError: No call.

    Examples:
        >>> grouper = OutputGrouper(["double(2)", "double(-1)"], Sandbox())
        >>> codes = ["def double(x): return x + x", "double = lambda y: y * 2", "def double(x): return x * x"]
        >>> [group.indices for group in grouper.group(codes).groups]
        [(0, 1), (2,)]
    """

    def __init__(self, calls: Sequence[str], sandbox: Sandbox) -> None:
        if not calls:
            raise ConfigurationError(
                "Got no calls but expected at least one expression that tries a candidate."
            )
        self._calls, self._sandbox = tuple(calls), sandbox
        self._keys: OrderedDict[str, AnswerKey] = OrderedDict()

    @property
    def is_stable(self) -> bool:
        """True: what a candidate does depends on that candidate alone."""
        return True

    def group(self, answers: Sequence[str | None]) -> AnswerGroups:
        """Run each candidate that was not seen before, one after the other, and group equal behaviour."""
        keys = {answer: self._find_key(answer) for answer in dict.fromkeys(answers) if answer is not None}
        return group_by_keys(answers, keys)

    def __repr__(self) -> str:
        return f"OutputGrouper({list(self._calls)}, {self._sandbox})"

    def _find_key(self, code: str) -> AnswerKey:
        key = self._keys.get(code)
        if key is None:
            results = self._sandbox.run(code, self._calls).results
            says_something = any(result.value is not None for result in results)
            outputs = [[result.value, result.error] for result in results]
            key = AnswerKey(kind="code", value=json.dumps(outputs) if says_something else "")
            self._keys[code] = key
            while len(self._keys) > MAX_CACHED:
                self._keys.popitem(last=False)
        return key


class EmbeddingGrouper:
    """Answers that mean much the same are one: average-linkage clusters of their embeddings' cosine similarity.

    A cluster depends on all that it was made from: a later answer may join two of them. The order of the answers
    means nothing.

    Args:
        model: A sentence-transformers model by name or folder, or a function from texts to vectors.
        threshold: Mean similarity in [-1, 1] that two clusters need to become one. See the page on programs for what it
            was calibrated on; another model needs another.
        max_length: Characters of an answer that are read.

    Raises:
        ConfigurationError: A threshold outside its range.
        MissingExtraError: sentence-transformers is not installed (extra `code`).
    """

    def __init__(
        self, model: str | Embedder, *, threshold: float = DEFAULT_THRESHOLD, max_length: int = 4000
    ) -> None:
        if not -1 <= threshold <= 1:
            raise ConfigurationError(f"Got {threshold = } but expected a cosine similarity in [-1, 1].")
        self._name = (
            model if isinstance(model, str) else getattr(model, "__qualname__", type(model).__qualname__)
        )
        self._embed = _load_embedder(model) if isinstance(model, str) else model
        self._threshold, self._max_length = threshold, max_length

    @property
    def is_stable(self) -> bool:
        """False: clusters change with the answers that are added."""
        return False

    def group(self, answers: Sequence[str | None]) -> AnswerGroups:
        """Cluster the distinct answers, sorted first, so that their order changes nothing."""
        texts = sorted(
            {answer[: self._max_length].strip() for answer in answers if answer is not None} - {""}
        )
        labels = self._cluster(texts)
        names: dict[int, str] = {}
        for text, label in zip(texts, labels, strict=True):
            names.setdefault(label, text)
        keys = {
            text: AnswerKey(kind="text", value=names[label])
            for text, label in zip(texts, labels, strict=True)
        }
        nothing = AnswerKey(kind="text", value="")
        return group_by_keys(
            answers,
            {
                answer: keys.get(answer[: self._max_length].strip(), nothing)
                for answer in answers
                if answer is not None
            },
        )

    def __repr__(self) -> str:
        return f"EmbeddingGrouper({self._name}, threshold={self._threshold}, max_length={self._max_length})"

    def _cluster(self, texts: Sequence[str]) -> list[int]:
        if len(texts) < 2:
            return [0] * len(texts)
        import numpy
        from scipy.cluster.hierarchy import fcluster, linkage  # comes with sentence-transformers

        vectors = numpy.asarray(self._embed(texts), dtype=float)
        lengths = numpy.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / numpy.maximum(lengths, 1e-12)
        distances = numpy.clip(1.0 - vectors @ vectors.T, 0.0, 2.0)
        places = numpy.triu_indices(len(texts), 1)
        tree = linkage(distances[places], method="average")
        return [int(label) for label in fcluster(tree, 1.0 - self._threshold, criterion="distance")]


def _load_embedder(model: str) -> Embedder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError(
            "Clusters of meaning need sentence-transformers: pip install 'hf-dynasor[code]'."
        ) from error
    loaded = SentenceTransformer(model, device="cpu")
    return lambda texts: loaded.encode(list(texts), show_progress_bar=False)
