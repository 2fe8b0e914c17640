"""``python -m vidzoo.cli``."""

from __future__ import annotations

import sys

from vidzoo.cli import main

sys.exit(main())
