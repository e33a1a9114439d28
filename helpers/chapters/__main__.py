"""`python -m helpers.chapters`."""

import sys

from helpers.chapters.command_line import main

sys.exit(main())
