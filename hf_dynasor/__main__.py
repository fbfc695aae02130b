"""`python -m hf_dynasor`: the command line."""

import sys

from hf_dynasor.cli import main

sys.exit(main())
