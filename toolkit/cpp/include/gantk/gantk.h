/* SPDX-License-Identifier: Apache-2.0
 *
 * The runner for other languages: plain C, no exceptions, no C++ types. The same rules as gantk/runner.hpp.
 *
 *   gantk_options options = gantk_options_default();
 *   gantk_runner *runner = NULL;
 *   gantk_error *error = gantk_runner_open("mosaic.gantk", &options, &runner);
 *   if (error != NULL) { fprintf(stderr, "%s\n", gantk_error_text(error)); gantk_error_free(error); return 1; }
 *
 * Errors: a function that can fail returns NULL when it did not, else an error that the caller frees; what it would
 * have written through pointers is then left alone.
 *
 * Ownership: what a function writes through a pointer to a pointer (runner, outputs) is the caller's and is freed with
 * the function named after it; freeing NULL is harmless. Everything else that is returned belongs to the object it was
 * asked of and lives as long. Memory in `gantk_tensor` is never taken over: inputs are read, and outputs written, only
 * during the call; of a bound run, during gantk_runner_bind and each gantk_bound_run. Outputs share memory with no
 * other array.
 *
 * Threads: any number may call gantk_runner_run*, gantk_runner_bind and the questions on one runner at the same time;
 * freeing it must not overlap with them. Their runs are under way at once, but for ONNX Runtime's on a GPU; what else
 * gantk/runner.hpp says of threads goes for C too. A bound run, an error or an outputs object belongs to one thread at a
 * time.
 *
 * Streams: the one in `gantk_options` is there during every call that opens, runs or binds, and is not being captured
 * then; it may be destroyed before the runner and what is bound are freed, which wait for what they have queued. Arrays
 * in GPU memory that a queued run reads or writes stay until the stream has come past it.
 */
#ifndef GANTK_H
#define GANTK_H

#include <stddef.h>
#include <stdint.h>

#if defined(GANTK_BUILDING)
#define GANTK_C_API __attribute__((visibility("default")))
#else
#define GANTK_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a struct or a function changes in a way that old callers do not survive. Functions may be added without:
 * a caller that was compiled against this header works with any library whose gantk_abi_version() is the same. */
#define GANTK_ABI_VERSION 2
#define GANTK_MOST_AXES 16

typedef struct gantk_error gantk_error;
typedef struct gantk_runner gantk_runner;
typedef struct gantk_outputs gantk_outputs;
typedef struct gantk_bound gantk_bound;

typedef enum { /* numbered as the exit codes of the `gantk` command */
  GANTK_FAILED = 1,          /* an input, a file or a machine is not as it must be */
  GANTK_USAGE = 2,           /* an option whose value is not among those allowed */
  GANTK_BACKEND_MISSING = 3  /* a backend that was asked for is not here, or cannot work on this machine */
} gantk_error_kind;

typedef enum {
  GANTK_FLOAT32 = 0,
  GANTK_FLOAT16 = 1,
  GANTK_BFLOAT16 = 2,
  GANTK_FLOAT64 = 3,
  GANTK_UINT8 = 4,
  GANTK_INT8 = 5,
  GANTK_INT32 = 6,
  GANTK_INT64 = 7,
  GANTK_BOOL = 8
} gantk_dtype;

typedef enum { GANTK_CPU = 0, GANTK_CUDA = 1 } gantk_device;

/* How to open a bundle. Texts may be NULL for their default, and are read only during the call. */
typedef struct {
  const char *backend;   /* "auto": the first that works here and computes it right */
  const char *precision; /* "fp32" if the bundle has it */
  const char *device;    /* the best that the backend has here */
  const char *form;      /* the one measured faster on that backend */
  const char *operators; /* no library of gantk's native operators; GANTK_ONNXRUNTIME_OPS, where set, comes before */
  int32_t threads;       /* for one operation on a CPU; 0: all cores that this process may use */
  int32_t reserved;      /* 0 */
  void *stream;          /* the caller's cudaStream_t, or NULL */
} gantk_options;

/* An array that is contiguous and row-major, in memory that is the caller's; on a GPU it begins at a multiple of 256
   bytes, as what CUDA allocates does. */
typedef struct {
  const char *name;
  void *data; /* an input is only read */
  int32_t dtype;
  int32_t device;
  int32_t rank;
  int32_t reserved; /* 0 */
  int64_t shape[GANTK_MOST_AXES];
} gantk_tensor;

/* An input or output of a network. A size that is chosen at run time is -1, and has a symbol. */
typedef struct {
  const char *name;
  const char *layout; /* "NC", "NCHW", "NHWC", or "" for what is not a picture */
  int32_t dtype;
  int32_t rank;
  int32_t has_range; /* whether `low` and `high` are set: the smallest and largest meaningful value */
  int32_t reserved;
  double low, high;
  int64_t smallest; /* the least height and width of a picture whose size is free */
  int64_t shape[GANTK_MOST_AXES];
  const char *symbols[GANTK_MOST_AXES]; /* NULL where the size is fixed */
} gantk_spec;

/* GPU memory that a runner holds, in bytes. */
typedef struct {
  size_t engine;      /* the weights */
  size_t activations; /* what its contexts have for what is between the layers */
  size_t buffers;     /* what it has copied inputs to, and copies outputs from */
} gantk_memory;

GANTK_C_API uint32_t gantk_abi_version(void);
GANTK_C_API const char *gantk_version(void);
GANTK_C_API gantk_options gantk_options_default(void);

GANTK_C_API gantk_error_kind gantk_error_get_kind(const gantk_error *error);
GANTK_C_API const char *gantk_error_what(const gantk_error *error);  /* one sentence */
GANTK_C_API const char *gantk_error_where(const gantk_error *error); /* "" where there is none */
GANTK_C_API const char *gantk_error_hint(const gantk_error *error);  /* "" where there is none */
GANTK_C_API const char *gantk_error_text(const gantk_error *error);  /* all of it, on one to three lines */
GANTK_C_API void gantk_error_free(gantk_error *error);

/* Opens a bundle; `options` may be NULL. */
GANTK_C_API gantk_error *gantk_runner_open(const char *path, const gantk_options *options, gantk_runner **runner);
GANTK_C_API void gantk_runner_free(gantk_runner *runner);

GANTK_C_API const char *gantk_runner_name(const gantk_runner *runner);
GANTK_C_API const char *gantk_runner_backend(const gantk_runner *runner);
GANTK_C_API const char *gantk_runner_version(const gantk_runner *runner);   /* the backend's */
GANTK_C_API const char *gantk_runner_precision(const gantk_runner *runner); /* that it really computes in */
GANTK_C_API const char *gantk_runner_file_precision(const gantk_runner *runner);
GANTK_C_API gantk_device gantk_runner_device(const gantk_runner *runner);

/* What it holds now, of TensorRT's engines; all zero where the backend does not tell. */
GANTK_C_API gantk_memory gantk_runner_memory_bytes(const gantk_runner *runner);

GANTK_C_API size_t gantk_runner_input_count(const gantk_runner *runner);
GANTK_C_API size_t gantk_runner_output_count(const gantk_runner *runner);
GANTK_C_API gantk_spec gantk_runner_input(const gantk_runner *runner, size_t index); /* all zero past the last */
GANTK_C_API gantk_spec gantk_runner_output(const gantk_runner *runner, size_t index);

/* Runs the network once into arrays that it makes. When GPU memory for them is taken, or given back, CUDA may wait for
 * all work: gantk_runner_run_into and gantk_runner_bind take none. */
GANTK_C_API gantk_error *gantk_runner_run(const gantk_runner *runner, const gantk_tensor *inputs, size_t input_count,
                                          gantk_outputs **outputs);

/* Runs it into memory that is the caller's; outputs that are not named are not delivered. */
GANTK_C_API gantk_error *gantk_runner_run_into(const gantk_runner *runner, const gantk_tensor *inputs,
                                               size_t input_count, const gantk_tensor *outputs, size_t output_count);

/* Binds a run to memory, which stays where it is until the bound run is freed: the least that a call can cost. The
 * inputs hold values by then, for the network may run. What is bound may outlive the runner. */
GANTK_C_API gantk_error *gantk_runner_bind(const gantk_runner *runner, const gantk_tensor *inputs, size_t input_count,
                                           const gantk_tensor *outputs, size_t output_count, gantk_bound **bound);
GANTK_C_API gantk_error *gantk_bound_run(gantk_bound *bound);
GANTK_C_API void gantk_bound_free(gantk_bound *bound);

GANTK_C_API size_t gantk_outputs_count(const gantk_outputs *outputs);
GANTK_C_API gantk_tensor gantk_outputs_get(const gantk_outputs *outputs, size_t index); /* all zero past the last */
GANTK_C_API void gantk_outputs_free(gantk_outputs *outputs);

#ifdef __cplusplus
}
#endif

#endif
