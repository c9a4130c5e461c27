"""``python -m chunkwise``: the command line."""

import sys

from chunkwise.cli import main

sys.exit(main())
