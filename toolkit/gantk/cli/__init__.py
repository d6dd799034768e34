# SPDX-License-Identifier: Apache-2.0
"""The command line: one thin file a verb, imported only when chosen."""
