// SPDX-License-Identifier: Apache-2.0
#include "kernel.hpp"

#include <algorithm>

namespace gantk::onnxruntime {
namespace {

// Whether a node has an attribute of some type: the interface has no question for that, only getters.
bool has(const OrtKernelInfo* info, const char* name) {
    const OrtApi& api = Ort::GetApi();
    std::size_t size = 0;
    std::int64_t number = 0;
    float real = 0;
    const Ort::Status statuses[] = {
        Ort::Status(api.KernelInfoGetAttribute_int64(info, name, &number)),
        Ort::Status(api.KernelInfoGetAttribute_float(info, name, &real)),
        Ort::Status(api.KernelInfoGetAttribute_string(info, name, nullptr, &size)),
        Ort::Status(api.KernelInfoGetAttributeArray_float(info, name, nullptr, &size)),
        Ort::Status(api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)),
    };
    return std::any_of(std::begin(statuses), std::end(statuses),
                       [](const auto& status) { return status.IsOK(); });
}

// What a getter could not read must not be there.
void expect_none(const OrtKernelInfo* info, const char* name, const char* wanted) {
    if (has(info, name)) throw Error(std::string("the attribute `") + name + "` is no " + wanted);
}

}  // namespace

std::string text_of(const Shape& shape) {
    std::string text = "[";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + "]";
}

OrtStatusPtr Kernel::ComputeV2(OrtKernelContext* context) noexcept {
    return guarded([&] {
        Ort::KernelContext wrapped(context);
        compute(wrapped);
    });
}

float float_attribute(const OrtKernelInfo* info, const char* name, float otherwise) {
    float value = otherwise;
    if (Ort::Status(Ort::GetApi().KernelInfoGetAttribute_float(info, name, &value)).IsOK()) return value;
    expect_none(info, name, "float");
    return otherwise;
}

std::string string_attribute(const OrtKernelInfo* info, const char* name, const char* otherwise) {
    const OrtApi& api = Ort::GetApi();
    std::size_t size = 0;
    if (Ort::Status(api.KernelInfoGetAttribute_string(info, name, nullptr, &size)).IsOK() && size > 0) {
        std::string value(size, '\0');
        Ort::ThrowOnError(api.KernelInfoGetAttribute_string(info, name, value.data(), &size));
        value.resize(size - 1);  // Its terminator is counted.
        return value;
    }
    expect_none(info, name, "string");
    return otherwise;
}

std::int64_t int_attribute(const OrtKernelInfo* info, const char* name, std::int64_t otherwise) {
    std::int64_t value = otherwise;
    if (Ort::Status(Ort::GetApi().KernelInfoGetAttribute_int64(info, name, &value)).IsOK()) return value;
    expect_none(info, name, "integer");
    return otherwise;
}

std::vector<std::int64_t> ints_attribute(const OrtKernelInfo* info, const char* name, std::size_t count) {
    const OrtApi& api = Ort::GetApi();
    std::vector<std::int64_t> values(count);
    std::size_t size = count;
    if (Ort::Status(api.KernelInfoGetAttributeArray_int64(info, name, values.data(), &size)).IsOK() && size == count)
        return values;
    expect_none(info, name, ("list of " + std::to_string(count) + " integers").c_str());
    return values;
}

Shape shape_of(const Ort::ConstValue& value, const char* name, std::size_t axes, bool more,
               const char* wanted) {
    const Shape shape = value.GetTensorTypeAndShapeInfo().GetShape();
    const bool fits = more ? shape.size() >= axes : shape.size() == axes;
    if (!fits || std::any_of(shape.begin(), shape.end(), [](std::int64_t size) { return size < 1; }))
        throw Error(std::string(name) + " have shape " + text_of(shape) + "; " + wanted + " is wanted");
    return shape;
}

cpu::Parallel threads_of(Ort::KernelContext& context) {
    const auto run = [](void* pool, cpu::Task task, std::size_t count, void* data) {
        if (count == 1) return task(data, 0);
        static_cast<Ort::KernelContext*>(pool)->ParallelFor(task, count, 0, data);
    };
    return {run, &context};
}

Workspace::Workspace(Ort::KernelContext& context, const OrtMemoryInfo* place, std::size_t bytes)
    : allocator_(context.GetAllocator(*place)) {
    const OrtStatusPtr status = Ort::GetApi().KernelContext_GetScratchBuffer(
        context.GetOrtKernelContext(), place, std::max<std::size_t>(bytes, 1), &data_);
    if (status == nullptr && data_ != nullptr) return;
    const Ort::Status reason(status);
    Ort::GetApi().ReleaseAllocator(allocator_);
    throw std::runtime_error("there is no memory for a workspace of " + std::to_string(bytes) + " bytes");
}

Workspace::~Workspace() {
    allocator_->Free(allocator_, data_);
    Ort::GetApi().ReleaseAllocator(allocator_);
}

CpuWorkspace::CpuWorkspace(Ort::KernelContext& context, std::size_t bytes)
    : Workspace(context, Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), bytes) {}

}  // namespace gantk::onnxruntime
