"""`python -m qatc` is the command `qatc`."""

import sys

from qatc.cli import main

sys.exit(main())
