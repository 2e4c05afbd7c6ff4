/* libcupti: refuses to watch, so that torch's profiler sees the CPU's side alone and warns once. */
#include "device.h"

enum { SUCCESS = 0, NOT_COMPATIBLE = 23 }; /* CUptiResult of cupti_result.h */

int cuptiGetVersion(unsigned* version) {
    *version = CUDA_VERSION_SERVED * 10; /* 130000 is CUDA 13.0 */
    return SUCCESS;
}

int cuptiGetResultString(int result, const char** text) {
    *text = "the simulated CUDA device has no activities";
    return SUCCESS;
}
