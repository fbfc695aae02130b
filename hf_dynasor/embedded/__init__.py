"""The embedded reasoner: a small reasoning model that ships with the package, and the questions it was made for.

Importing this package loads no model and no torch.
"""

from pathlib import Path

EMBEDDED_MODEL_NAME = "embedded"
REASONER_PATH = Path(__file__).parent / "reasoner"
STEP_REWARD_PATH = Path(__file__).parent / "step_reward"

__all__ = ["EMBEDDED_MODEL_NAME", "REASONER_PATH", "STEP_REWARD_PATH"]
