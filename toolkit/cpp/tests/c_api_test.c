/* SPDX-License-Identifier: Apache-2.0
 * The C API from C. Arguments: a bundle of a network latent: float32[N x 4] -> picture: float32[N x 3 x 8 x 8]. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gantk/gantk.h"

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                \
    }                                                                         \
  } while (0)

enum { BATCH = 2, LATENT = 4, PICTURE = 3 * 8 * 8 };

static void check_fine(gantk_error *error) {
  if (error == NULL) return;
  fprintf(stderr, "%s\n", gantk_error_text(error));
  exit(1);
}

static void check_refused(gantk_error *error, const char *part) {
  CHECK(error != NULL);
  if (strstr(gantk_error_text(error), part) == NULL) fprintf(stderr, "%s\n", gantk_error_text(error));
  CHECK(strstr(gantk_error_text(error), part) != NULL);
  gantk_error_free(error);
}

static gantk_tensor tensor(const char *name, void *data, int32_t rank, const int64_t *shape) {
  gantk_tensor made;
  memset(&made, 0, sizeof made);
  made.name = name;
  made.data = data;
  made.dtype = GANTK_FLOAT32;
  made.rank = rank;
  memcpy(made.shape, shape, (size_t)rank * sizeof *shape);
  return made;
}

static void check_errors(const char *path) {
  gantk_runner *runner = NULL;
  gantk_options options = gantk_options_default();
  check_refused(gantk_runner_open("no such bundle", NULL, &runner), "does not exist; a bundle is a folder");
  check_refused(gantk_runner_open(NULL, NULL, &runner), "path is NULL");
  check_refused(gantk_runner_open(path, NULL, NULL), "runner is NULL");
  options.backend = "abacus";
  gantk_error *error = gantk_runner_open(path, &options, &runner);
  CHECK(gantk_error_get_kind(error) == GANTK_USAGE);
  CHECK(strcmp(gantk_error_where(error), "backend") == 0);
  CHECK(strcmp(gantk_error_hint(error), "") == 0);
  check_refused(error, "'abacus' is not a backend");
  CHECK(runner == NULL);
  gantk_runner_free(NULL);
  gantk_outputs_free(NULL);
  gantk_error_free(NULL);
}

static void check_interface(const gantk_runner *runner) {
  CHECK(gantk_runner_input_count(runner) == 1 && gantk_runner_output_count(runner) == 1);
  gantk_spec latent = gantk_runner_input(runner, 0), picture = gantk_runner_output(runner, 0);
  CHECK(strcmp(latent.name, "latent") == 0 && latent.rank == 2 && strcmp(latent.layout, "NC") == 0);
  CHECK(latent.shape[0] == -1 && strcmp(latent.symbols[0], "N") == 0);
  CHECK(latent.shape[1] == LATENT && latent.symbols[1] == NULL);
  CHECK(picture.has_range && picture.low == -1.0 && picture.high == 1.0);
  CHECK(gantk_runner_input(runner, 1).name == NULL);
  CHECK(strcmp(gantk_runner_backend(runner), "onnxruntime") == 0 && gantk_runner_device(runner) == GANTK_CPU);
  gantk_memory held = gantk_runner_memory_bytes(runner);
  CHECK(held.engine == 0 && held.activations == 0 && held.buffers == 0);
}

static void check_bound_runs(gantk_runner *runner) {
  float latent[LATENT] = {0.5f, -1, 2, 0}, picture[PICTURE], wanted[PICTURE];
  const int64_t in_shape[] = {1, LATENT}, out_shape[] = {1, 3, 8, 8};
  gantk_tensor input = tensor("latent", latent, 2, in_shape), output = tensor("picture", picture, 4, out_shape);
  gantk_bound *bound = NULL;
  check_refused(gantk_runner_bind(runner, &input, 1, &output, 1, NULL), "bound is NULL");
  check_refused(gantk_runner_bind(runner, NULL, 0, &output, 1, &bound), "the inputs given are none");
  check_refused(gantk_bound_run(NULL), "bound is NULL");
  CHECK(bound == NULL);
  gantk_bound_free(NULL);
  check_fine(gantk_runner_bind(runner, &input, 1, &output, 1, &bound));
  latent[0] = -2; /* It is the memory that is bound. */
  output.data = wanted;
  check_fine(gantk_runner_run_into(runner, &input, 1, &output, 1));
  gantk_runner_free(runner);
  memset(picture, 0, sizeof picture);
  check_fine(gantk_bound_run(bound));
  CHECK(memcmp(picture, wanted, sizeof picture) == 0);
  latent[1] = (float)strtod("nan", NULL);
  check_refused(gantk_bound_run(bound), "1 of 4 values that are NaN or infinite");
  gantk_bound_free(bound);
}

static void check_runs(const gantk_runner *runner) {
  float latent[BATCH * LATENT] = {0.5f, -1, 2, 0, 1, 1, -0.25f, 3}, picture[BATCH * PICTURE];
  const int64_t in_shape[] = {BATCH, LATENT}, out_shape[] = {BATCH, 3, 8, 8};
  gantk_tensor input = tensor("latent", latent, 2, in_shape), output = tensor("picture", picture, 4, out_shape);
  gantk_outputs *outputs = NULL;
  check_fine(gantk_runner_run(runner, &input, 1, &outputs));
  CHECK(gantk_outputs_count(outputs) == 1 && gantk_outputs_get(outputs, 1).name == NULL);
  gantk_tensor fresh = gantk_outputs_get(outputs, 0);
  CHECK(strcmp(fresh.name, "picture") == 0 && fresh.rank == 4 && fresh.dtype == GANTK_FLOAT32);
  CHECK(memcmp(fresh.shape, out_shape, sizeof out_shape) == 0);
  check_fine(gantk_runner_run_into(runner, &input, 1, &output, 1));
  CHECK(memcmp(picture, fresh.data, sizeof picture) == 0);
  CHECK(picture[0] != picture[1]);
  gantk_outputs_free(outputs);

  input.dtype = 99;
  check_refused(gantk_runner_run_into(runner, &input, 1, &output, 1), "has dtype 99");
  input.dtype = GANTK_FLOAT64;
  check_refused(gantk_runner_run_into(runner, &input, 1, &output, 1), "has dtype float64; the network wants float32");
  input.dtype = GANTK_FLOAT32;
  input.rank = 17;
  check_refused(gantk_runner_run_into(runner, &input, 1, &output, 1), "has rank 17");
  check_refused(gantk_runner_run_into(runner, NULL, 1, &output, 1), "is NULL");
  check_refused(gantk_runner_run(runner, NULL, 0, &outputs), "the inputs given are none");
}

int main(int count, char **words) {
  CHECK(count == 2);
  CHECK(gantk_abi_version() == GANTK_ABI_VERSION);
  CHECK(strlen(gantk_version()) > 0);
  check_errors(words[1]);
  gantk_runner *runner = NULL;
  gantk_options options = gantk_options_default();
  options.threads = 1;
  check_fine(gantk_runner_open(words[1], &options, &runner));
  check_interface(runner);
  check_runs(runner);
  check_bound_runs(runner);
  puts("all is well");
  return 0;
}
