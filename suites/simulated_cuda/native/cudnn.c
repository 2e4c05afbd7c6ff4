/* libcudnn: its version, which torch compares with the one it was built for. Its operators are computed in compute.py. */
#include "device.h"

enum { MAJOR = 9, MINOR = 20, PATCH = 0 }; /* of the nvidia-cudnn that torch 2.13 requires */

int cudnnGetProperty(int kind, int* value) {
    *value = kind == 0 ? MAJOR : kind == 1 ? MINOR : PATCH; /* libraryPropertyType of library_types.h */
    return 0;
}

size_t cudnnGetVersion(void) { return MAJOR * 10000 + MINOR * 100 + PATCH; }
size_t cudnnGetCudartVersion(void) { return CUDA_VERSION_SERVED; }
const char* cudnnGetErrorString(int error) { return "the simulated CUDA device runs no cuDNN"; }
