"""Makes `fake_objective` importable by name, in the worker processes that a test starts as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
