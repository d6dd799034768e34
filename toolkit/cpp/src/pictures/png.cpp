// SPDX-License-Identifier: Apache-2.0
// PNG by libpng's simplified API, which brings every kind of file to eight bits a channel.
#include <png.h>

#include "formats.hpp"
#include "gantk/error.hpp"
#include "gantk/pictures.hpp"

namespace gantk::pictures {
namespace {

// libpng's own state, given back however the scope ends.
class Image {
 public:
  Image() { image_.version = PNG_IMAGE_VERSION; }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;
  ~Image() { png_image_free(&image_); }
  png_image* operator->() { return &image_; }
  png_image* get() { return &image_; }

 private:
  png_image image_{};
};

}  // namespace

Tensor decode_png(const std::string& path, const std::string& data) {
  Image image;
  if (png_image_begin_read_from_memory(image.get(), data.data(), data.size()) == 0) fail_reading(path, image->message);
  image->format = PNG_FORMAT_RGB;
  Tensor pixels = make_pixels(path, image->height, image->width);
  const png_color white{255, 255, 255};
  if (png_image_finish_read(image.get(), &white, pixels.mutable_view().data, 0, nullptr) == 0) {
    fail_reading(path, image->message);
  }
  return pixels;
}

void write(const std::string& path, const TensorView& pixels) {
  check_in_main_memory(pixels);
  const Shape& shape = pixels.shape;
  const bool fits = pixels.dtype == DType::uint8 && shape.rank() == 4 && shape[0] == 1 &&
                    (shape[3] == 1 || shape[3] == 3) && shape.count() > 0;
  if (!fits) {
    throw Error("an array " + std::string(name_of(pixels.dtype)) + shape.text() +
                " is no picture; uint8[1, H, W, 1 or 3] is wanted");
  }
  Image image;
  image->height = static_cast<png_uint_32>(shape[1]);
  image->width = static_cast<png_uint_32>(shape[2]);
  image->format = shape[3] == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  if (png_image_write_to_file(image.get(), path.c_str(), 0, pixels.data, 0, nullptr) == 0) {
    throw Error("cannot write `" + path + "`: " + image->message, path);
  }
}

}  // namespace gantk::pictures
