/* libcudart: devices, errors, streams, events and the launch of kernels. Memory and graphs have files of their own.

   All work is done when it is asked for, so that everything is always finished: streams only have an identity. Names and
   arguments are those of cuda_runtime_api.h of CUDA 13. */
#include "cudart.h"

#include <dlfcn.h>
#include <time.h>

static __thread int current_device = 0;
static __thread int last_error = SUCCESS;

int fail(int error) {
    if (error) last_error = error;
    return error;
}

int current(void) { return current_device; }

const char* cudaGetErrorString(int error) {
    switch (error) {
        case SUCCESS: return "no error";
        case INVALID_VALUE: return "invalid argument";
        case OUT_OF_MEMORY: return "out of memory";
        case NO_DEVICE: return "no CUDA-capable device is detected";
        case INVALID_DEVICE: return "invalid device ordinal";
        case NOT_SUPPORTED: return "the simulated CUDA device runs no kernels, and nothing else serves this operation";
        default: return "error of the simulated CUDA device";
    }
}

const char* cudaGetErrorName(int error) { return cudaGetErrorString(error); }

int cudaPeekAtLastError(void) { return last_error; }

int cudaGetLastError(void) {
    int error = last_error;
    last_error = SUCCESS;
    return error;
}

/* Devices */

int cudaGetDeviceCount(int* count) {
    int physical[MOST_DEVICES];
    *count = visible_devices(physical);
    return *count ? SUCCESS : fail(NO_DEVICE);
}

/* SUCCESS if a device has that number. */
int check_device(int device) {
    int count;
    if (cudaGetDeviceCount(&count)) return NO_DEVICE;
    return device >= 0 && device < count ? SUCCESS : fail(INVALID_DEVICE);
}

int cudaGetDevice(int* device) {
    int error = check_device(current_device);
    *device = current_device;
    return error;
}

int cudaSetDevice(int device) {
    int error = check_device(device);
    if (!error) current_device = device;
    return error;
}

int cudaDriverGetVersion(int* version) {
    *version = CUDA_VERSION_SERVED;
    return SUCCESS;
}

int cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

int cudaGetDeviceProperties(struct cudaDeviceProp* told, int device) {
    int physical[MOST_DEVICES], error = check_device(device);
    if (error) return error;
    visible_devices(physical);
    memset(told, 0, sizeof *told);
    strcpy(told->name, DEVICE_NAME);
    uuid_of(physical[device], told->uuid);
    told->totalGlobalMem = total_memory();
    told->sharedMemPerBlock = SHARED_PER_BLOCK;
    told->sharedMemPerBlockOptin = SHARED_PER_BLOCK_OPTIN;
    told->sharedMemPerMultiprocessor = SHARED_PER_MULTIPROCESSOR;
    told->reservedSharedMemPerBlock = SHARED_RESERVED;
    told->regsPerBlock = told->regsPerMultiprocessor = REGISTERS;
    told->warpSize = WARP;
    told->memPitch = 2147483647;
    told->maxThreadsPerBlock = THREADS_PER_BLOCK;
    told->maxThreadsPerMultiProcessor = THREADS_PER_MULTIPROCESSOR;
    told->maxBlocksPerMultiProcessor = BLOCKS_PER_MULTIPROCESSOR;
    for (int axis = 0; axis < 3; axis++) {
        told->maxThreadsDim[axis] = device_attribute(ATTRIBUTE_BLOCK_X + axis);
        told->maxGridSize[axis] = device_attribute(ATTRIBUTE_GRID_X + axis);
    }
    told->totalConstMem = 65536;
    told->major = CAPABILITY_MAJOR;
    told->minor = CAPABILITY_MINOR;
    told->textureAlignment = 512;
    told->texturePitchAlignment = 32;
    told->multiProcessorCount = MULTIPROCESSORS;
    told->l2CacheSize = L2_CACHE;
    told->memoryBusWidth = MEMORY_BUS_BITS;
    told->pciBusID = physical[device] + 1;
    told->concurrentKernels = told->ECCEnabled = told->unifiedAddressing = told->canMapHostMemory = 1;
    told->cooperativeLaunch = told->clusterLaunch = told->streamPrioritiesSupported = told->memoryPoolsSupported = 1;
    told->asyncEngineCount = 3;
    return SUCCESS;
}

int cudaDeviceGetAttribute(int* value, int attribute, int device) {
    *value = device_attribute(attribute);
    return check_device(device);
}

int cudaDeviceGetPCIBusId(char* text, int size, int device) {
    int physical[MOST_DEVICES], error = check_device(device);
    if (error) return error;
    visible_devices(physical);
    snprintf(text, (size_t)size, "0000:%02x:00.0", physical[device] + 1);
    return SUCCESS;
}

int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return SUCCESS;
}

int cudaDeviceCanAccessPeer(int* can, int device, int peer) {
    *can = 0; /* so that torch copies between devices by cudaMemcpyPeerAsync */
    return SUCCESS;
}

int cudaDeviceGetP2PAttribute(int* value, int attribute, int device, int peer) {
    *value = 0;
    return SUCCESS;
}

/* Streams */

int cudaStreamCreate(void** stream) {
    *stream = calloc(1, 16);
    return *stream ? SUCCESS : fail(OUT_OF_MEMORY);
}

int cudaStreamCreateWithFlags(void** stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamCreateWithPriority(void** stream, unsigned flags, int priority) { return cudaStreamCreate(stream); }

int cudaStreamDestroy(void* stream) {
    free(stream);
    return SUCCESS;
}

int cudaStreamGetPriority(void* stream, int* priority) {
    *priority = 0;
    return SUCCESS;
}

int cudaLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    function(data);
    return SUCCESS;
}

int cudaStreamAddCallback(void* stream, void (*callback)(void*, int, void*), void* data, unsigned flags) {
    callback(stream, SUCCESS, data);
    return SUCCESS;
}

/* Events */

struct event {
    struct timespec recorded;
    int captured; /* whether the stream that recorded it was capturing: who waits for it then captures too */
};

int cudaEventCreate(void** event) {
    *event = calloc(1, sizeof(struct event));
    return *event ? SUCCESS : fail(OUT_OF_MEMORY);
}

int cudaEventCreateWithFlags(void** event, unsigned flags) { return cudaEventCreate(event); }

int cudaEventDestroy(void* event) {
    free(event);
    return SUCCESS;
}

int cudaEventRecord(struct event* event, void* stream) {
    clock_gettime(CLOCK_MONOTONIC, &event->recorded);
    event->captured = is_capturing(stream);
    return SUCCESS;
}

int cudaEventRecordWithFlags(struct event* event, void* stream, unsigned flags) {
    return cudaEventRecord(event, stream);
}

int cudaStreamWaitEvent(void* stream, struct event* event, unsigned flags) {
    if (event->captured) join_capture(stream);
    return SUCCESS;
}

int cudaEventElapsedTime(float* milliseconds, struct event* start, struct event* end) {
    double seconds = (double)(end->recorded.tv_sec - start->recorded.tv_sec);
    *milliseconds = (float)(seconds * 1e3 + (double)(end->recorded.tv_nsec - start->recorded.tv_nsec) / 1e6);
    return SUCCESS;
}

/* Kernels: nothing runs them. What launches one therefore fails, instead of leaving its output as it was. */

int cudaLaunchKernel(void) { return fail(NOT_SUPPORTED); }
int __cudaLaunchKernel(void) { return fail(NOT_SUPPORTED); }
int cudaLaunchKernelExC(void) { return fail(NOT_SUPPORTED); }
int cudaLaunchCooperativeKernel(void) { return fail(NOT_SUPPORTED); }

static void* fat_binary[8];

void** __cudaRegisterFatBinary(void* image) { return fat_binary; }
unsigned __cudaPushCallConfiguration(void) { return 0; }

int cudaFuncGetAttributes(struct cudaFuncAttributes* told, const void* function) {
    memset(told, 0, sizeof *told);
    told->maxThreadsPerBlock = THREADS_PER_BLOCK;
    told->numRegs = WARP;
    told->ptxVersion = told->binaryVersion = 10 * CAPABILITY_MAJOR + CAPABILITY_MINOR;
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int size, size_t shared) {
    *blocks = 2;
    return SUCCESS;
}

int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* function, int size, size_t shared, unsigned flags) {
    *blocks = 2;
    return SUCCESS;
}

/* torch finds the driver's functions through the runtime. */
int cudaGetDriverEntryPointByVersion(
    const char* symbol, void** function, unsigned version, unsigned long long flags, int* status) {
    char newer[128];
    void* driver = dlopen("libcuda.so.1", RTLD_LAZY);
    snprintf(newer, sizeof newer, "%s_v2", symbol);
    *function = driver ? dlsym(driver, newer) : NULL;
    if (driver && !*function) *function = dlsym(driver, symbol);
    if (driver && !*function) *function = dlsym(driver, "simulated_not_supported");
    if (status) *status = *function ? 0 : 1; /* cudaDriverEntryPointSymbolNotFound */
    return *function ? SUCCESS : fail(NO_DEVICE);
}
