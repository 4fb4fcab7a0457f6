"""What every test shares: the repository's root on the path, so that helpers are imported as `tests.…`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
