# SPDX-License-Identifier: Apache-2.0
"""Puts this folder on the import path, so that tests share `networks`, and calms hypothesis."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "gantk", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("gantk")
