"""Tests of the double itself, one or more for each thing that a faithful double must have.

    python3 tests/support/weaviate/selftest.py
"""

import unittest

from selftest_data import Data, Objects, Stores
from selftest_more import Definitions, Operations
from selftest_network import AccessRules, Network, Program
from selftest_states import RoutesAndShapes, States

__all__ = ["AccessRules", "Data", "Definitions", "Network", "Objects", "Operations", "Program", "RoutesAndShapes",
           "States", "Stores"]

if __name__ == "__main__":
    unittest.main()
