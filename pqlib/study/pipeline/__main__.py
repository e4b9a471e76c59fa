"""Entry point of ``python -m pqlib.study.pipeline``."""

import sys

from pqlib.study.pipeline.cli import main

sys.exit(main())
