// SPDX-License-Identifier: Apache-2.0
// Vectors of kLanes, which the file that includes this defines: a register each. In memory they may stand at any
// address that their elements may.

using Floats __attribute__((vector_size(kLanes * sizeof(float)))) = float;
using Words __attribute__((vector_size(kLanes * sizeof(float)))) = std::uint32_t;
using Halves __attribute__((vector_size(kLanes * sizeof(Bfloat)))) = Bfloat;

using StoredFloats __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(float)), may_alias)) = float;
using StoredWords
    __attribute__((vector_size(kLanes * sizeof(float)), aligned(alignof(Bfloat)), may_alias)) = std::uint32_t;
using StoredHalves
    __attribute__((vector_size(kLanes * sizeof(Bfloat)), aligned(alignof(Bfloat)), may_alias)) = Bfloat;
