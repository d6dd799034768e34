# SPDX-License-Identifier: Apache-2.0
"""Style networks applied to pictures, folders, video, and pictures larger than memory; without torch."""
