# SPDX-License-Identifier: Apache-2.0
"""Training loops that read top to bottom, and what they keep an eye on."""
