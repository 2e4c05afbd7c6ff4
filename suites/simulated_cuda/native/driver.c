/* libcuda: the part of the driver that torch, Triton and NVIDIA's other libraries call. Modules load and kernels of Triton
   launch, but nothing runs; what is not here answers CUDA_ERROR_NOT_SUPPORTED. Names are those of cuda.h of CUDA 13. */
#include "device.h"

enum { SUCCESS = 0, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_SUPPORTED = 801 };

static char context[16], module[16], function[16];

int simulated_not_supported(void) { return NOT_SUPPORTED; }

static int visible_count(void) {
    int physical[MOST_DEVICES];
    return visible_devices(physical);
}

int cuInit(unsigned flags) { return visible_count() ? SUCCESS : NO_DEVICE; }

int cuDriverGetVersion(int* version) {
    *version = CUDA_VERSION_SERVED;
    return SUCCESS;
}

int cuGetErrorString(int error, const char** text) {
    *text = error == NO_DEVICE       ? "no CUDA-capable device is detected"
            : error == NOT_SUPPORTED ? "the simulated CUDA device does not support this"
                                     : "error of the simulated CUDA device";
    return SUCCESS;
}

int cuGetErrorName(int error, const char** text) { return cuGetErrorString(error, text); }

/* Devices */

int cuDeviceGetCount(int* count) {
    *count = visible_count();
    return SUCCESS;
}

int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal >= 0 && ordinal < visible_count() ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char* name, int size, int device) {
    snprintf(name, (size_t)size, "%s", DEVICE_NAME);
    return SUCCESS;
}

int cuDeviceGetUuid(unsigned char* uuid, int device) {
    int physical[MOST_DEVICES];
    if (device < 0 || device >= visible_devices(physical)) return INVALID_DEVICE;
    uuid_of(physical[device], uuid);
    return SUCCESS;
}

int cuDeviceGetUuid_v2(unsigned char* uuid, int device) { return cuDeviceGetUuid(uuid, device); }

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = device_attribute(attribute);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = total_memory();
    return SUCCESS;
}

/* Contexts: there is one, whatever the device, since nothing runs in it. */

int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    *flags = 0;
    *active = 1;
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** made, int device) {
    *made = context;
    return SUCCESS;
}

int cuCtxGetCurrent(void** found) {
    *found = context;
    return SUCCESS;
}

int cuCtxGetDevice(int* device) {
    *device = 0;
    return SUCCESS;
}

int cuCtxGetLimit(size_t* value, int limit) {
    *value = 0;
    return SUCCESS;
}

int cuCtxSetLimit(int limit, size_t value) { return SUCCESS; }
int cuCtxSetCurrent(void* other) { return SUCCESS; }
int cuCtxPushCurrent_v2(void* other) { return SUCCESS; }
int cuCtxPopCurrent_v2(void** other) { return cuCtxGetCurrent(other); }

/* Kernels of Triton and inductor */

int cuModuleLoadData(void** made, const void* image) {
    *made = module;
    return SUCCESS;
}

int cuModuleLoadDataEx(void** made, const void* image, unsigned count, int* options, void** values) {
    return cuModuleLoadData(made, image);
}

int cuModuleLoad(void** made, const char* path) { return cuModuleLoadData(made, path); }
int cuModuleUnload(void* loaded) { return SUCCESS; }

int cuModuleGetFunction(void** made, void* loaded, const char* name) {
    *made = function;
    return SUCCESS;
}

int cuFuncGetAttribute(int* value, int attribute, void* of) {
    *value = attribute == 0 ? THREADS_PER_BLOCK : 0; /* CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK */
    return SUCCESS;
}

int cuFuncSetAttribute(void* of, int attribute, int value) { return SUCCESS; }
int cuFuncSetCacheConfig(void* of, int config) { return SUCCESS; }

int cuOccupancyMaxActiveClusters(int* clusters, void* of, const void* config) {
    *clusters = 1;
    return SUCCESS;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* of, int size, size_t shared) {
    *blocks = 2;
    return SUCCESS;
}

int cuLaunchKernel(void) { return SUCCESS; }
int cuLaunchKernelEx(void) { return SUCCESS; }
int cuLaunchCooperativeKernel(void) { return SUCCESS; }
int cuTensorMapEncodeTiled(void) { return SUCCESS; }
int cuTensorMapEncodeIm2col(void) { return SUCCESS; }

/* Memory: an address is the same to device and host, and its device pointer is itself. */

int cuPointerGetAttribute(void* value, int attribute, uint64_t pointer) {
    *(uint64_t*)value = pointer;
    return SUCCESS;
}

int cuMemsetD32Async(uint32_t* to, uint32_t value, size_t count, void* stream) {
    for (size_t at = 0; at < count; at++) to[at] = value;
    return SUCCESS;
}

int cuStreamWriteValue32(void* stream, uint32_t* to, uint32_t value, unsigned flags) {
    *to = value;
    return SUCCESS;
}

/* Other libraries find the driver's functions here. */

int cuGetProcAddress_v2(const char* symbol, void** found, int version, uint64_t flags, int* status) {
    extern void* dlsym(void*, const char*);
    char newer[128];
    snprintf(newer, sizeof newer, "%s_v2", symbol);
    *found = dlsym(NULL, newer);
    if (!*found) *found = dlsym(NULL, symbol);
    if (!*found) *found = (void*)simulated_not_supported;
    if (status) *status = SUCCESS;
    return SUCCESS;
}

int cuGetProcAddress(const char* symbol, void** found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, found, version, flags, NULL);
}
