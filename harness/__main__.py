"""``python -m harness`` is ``imsh``."""

import sys

from harness.cli.main import main

sys.exit(main())
