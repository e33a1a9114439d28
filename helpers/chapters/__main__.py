"""`python -m helpers.chapters`."""

import sys

from helpers.chapters.run import main

sys.exit(main())
