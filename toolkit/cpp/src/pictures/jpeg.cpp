// SPDX-License-Identifier: Apache-2.0
// JPEG by libjpeg, whose errors jump: between setjmp and the jump there is no object with a destructor.
#include <csetjmp>
#include <cstddef>
#include <cstdio>

// After <cstdio>, whose names it uses without including it.
#include <jpeglib.h>

#include "formats.hpp"

namespace gantk::pictures {
namespace {

struct Decoder {
  jpeg_decompress_struct state;
  jpeg_error_mgr errors;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void jump(j_common_ptr state) {
  auto* decoder = static_cast<Decoder*>(state->client_data);
  (*state->err->format_message)(state, decoder->message);
  std::longjmp(decoder->escape, 1);
}

// Until the size is known. False where it failed, and `message` says why; so for the next.
bool begin(Decoder& decoder, const std::string& data) {
  if (setjmp(decoder.escape) != 0) return false;
  jpeg_create_decompress(&decoder.state);
  jpeg_mem_src(&decoder.state, reinterpret_cast<const unsigned char*>(data.data()), data.size());
  jpeg_read_header(&decoder.state, TRUE);
  decoder.state.out_color_space = JCS_RGB;
  jpeg_calc_output_dimensions(&decoder.state);
  return true;
}

bool finish(Decoder& decoder, unsigned char* pixels) {
  if (setjmp(decoder.escape) != 0) return false;
  jpeg_start_decompress(&decoder.state);
  while (decoder.state.output_scanline < decoder.state.output_height) {
    JSAMPROW row = pixels + std::size_t{3} * decoder.state.output_width * decoder.state.output_scanline;
    jpeg_read_scanlines(&decoder.state, &row, 1);
  }
  // A file that is cut yields grey with a warning.
  if (decoder.errors.num_warnings > 0)
    (*decoder.errors.format_message)(reinterpret_cast<j_common_ptr>(&decoder.state), decoder.message);
  return decoder.errors.num_warnings == 0;
}

}  // namespace

Tensor decode_jpeg(const std::string& path, const std::string& data) {
  Decoder decoder{};
  decoder.state.err = jpeg_std_error(&decoder.errors);
  decoder.state.client_data = &decoder;
  decoder.errors.error_exit = jump;
  decoder.errors.emit_message = [](j_common_ptr state, int level) {
    if (level < 0) ++state->err->num_warnings;
  };
  struct Release {
    Decoder& held;
    ~Release() { jpeg_destroy_decompress(&held.state); }
  } release{decoder};
  if (!begin(decoder, data)) fail_reading(path, decoder.message);
  Tensor pixels = make_pixels(path, decoder.state.output_height, decoder.state.output_width);
  if (!finish(decoder, static_cast<unsigned char*>(pixels.mutable_view().data))) fail_reading(path, decoder.message);
  return pixels;
}

}  // namespace gantk::pictures
