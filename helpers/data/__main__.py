"""`python -m helpers.data`: list and fetch image sets."""

import sys

from helpers.data.load import main

sys.exit(main())
