# SPDX-License-Identifier: Apache-2.0
"""`gantk demo`: the whole path on a picture set that gantk draws itself."""
