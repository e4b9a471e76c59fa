"""Entry point of ``python -m pqlib.pipeline``."""

import sys

from pqlib.pipeline.cli import main

sys.exit(main())
