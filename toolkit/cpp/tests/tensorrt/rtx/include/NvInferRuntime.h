// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "NvInferVersion.h"

#include "../../interface.hpp"
