# SPDX-License-Identifier: Apache-2.0
"""`python -m gantk`."""

import sys

from gantk.cli.main import main

sys.exit(main())
