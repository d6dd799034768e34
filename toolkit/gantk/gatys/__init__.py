# SPDX-License-Identifier: Apache-2.0
"""Style transfer by optimisation (Gatys, Ecker, Bethge, CVPR 2016): the picture itself is what learns."""
