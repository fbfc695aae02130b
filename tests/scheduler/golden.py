"""Writes the golden decisions anew: `python -m tests.scheduler.golden`. Look at the difference before keeping it."""

import json

from tests.scheduler.test_scheduling_shell import GOLDEN, POLICIES, make_golden

if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({policy: make_golden(policy) for policy in POLICIES}, indent=None) + "\n")
