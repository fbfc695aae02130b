"""`--reward-model` and `--reward-kind` reach the engine."""

from __future__ import annotations

import pytest

from hf_dynasor import serving
from hf_dynasor.cli.main import main
from hf_dynasor.errors import ModelLoadError


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"reward": "auto", "reward_kind": "auto"}),
        (
            ["--reward-model", "./prm", "--reward-kind", "step_labels"],
            {"reward": "./prm", "reward_kind": "step_labels"},
        ),
    ],
)
def test_the_options_reach_the_engine(options, expected, monkeypatch):
    seen = {}

    def make_engine(model, **given):
        seen.update(given)
        raise ModelLoadError("far enough")

    monkeypatch.setattr(serving, "make_engine", make_engine)
    assert main(["solve", "What is 2+3?", *options]) != 0
    assert {name: seen[name] for name in expected} == expected


def test_an_unknown_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["solve", "What is 2+3?", "--reward-kind", "prm"])
    assert "step_classes" in capsys.readouterr().err
