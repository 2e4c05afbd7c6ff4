/* libcudart's memory: the device's is the host's, so that a pointer of the one is read by the other. */
#include "cudart.h"

#include <pthread.h>
#include <sys/mman.h>

enum { HOST = 1, DEVICE = 2, MANAGED = 3 }; /* cudaMemoryType of driver_types.h */

struct allocation {
    char* start;
    size_t size;
    int kind, device, owned;
    struct allocation* next;
};

static struct allocation* allocations;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int remember(void* start, size_t size, int kind, int owned) {
    struct allocation* made = malloc(sizeof *made);
    if (!made) return fail(OUT_OF_MEMORY);
    *made = (struct allocation){start, size, kind, current(), owned, NULL};
    pthread_mutex_lock(&lock);
    made->next = allocations;
    allocations = made;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

static int allocate(void** start, size_t size, int kind) {
    int error = check_device(current());
    if (error) return error;
    if (size == 0) size = 1;
    /* The host would hand out more than it has, and then kill the process. */
    *start = size > free_memory() ? MAP_FAILED
                                  : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (*start != MAP_FAILED) return remember(*start, size, kind, 1);
    *start = NULL;
    return fail(OUT_OF_MEMORY);
}

static int forget(void* start) {
    if (!start) return SUCCESS;
    pthread_mutex_lock(&lock);
    struct allocation** at = &allocations;
    while (*at && (*at)->start != (char*)start) at = &(*at)->next;
    struct allocation* found = *at;
    if (found) *at = found->next;
    pthread_mutex_unlock(&lock);
    if (!found) return fail(INVALID_VALUE);
    if (found->owned) munmap(found->start, found->size);
    free(found);
    return SUCCESS;
}

int cudaMalloc(void** start, size_t size) { return allocate(start, size, DEVICE); }
int cudaMallocAsync(void** start, size_t size, void* stream) { return allocate(start, size, DEVICE); }
int cudaMallocManaged(void** start, size_t size, unsigned flags) { return allocate(start, size, MANAGED); }
int cudaHostAlloc(void** start, size_t size, unsigned flags) { return allocate(start, size, HOST); }
int cudaHostRegister(void* start, size_t size, unsigned flags) { return remember(start, size, HOST, 0); }
int cudaFree(void* start) { return forget(start); }
int cudaFreeAsync(void* start, void* stream) { return forget(start); }
int cudaFreeHost(void* start) { return forget(start); }
int cudaHostUnregister(void* start) { return forget(start); }

int cudaMemGetInfo(size_t* available, size_t* total) {
    *available = free_memory();
    *total = total_memory();
    return check_device(current());
}

int cudaPointerGetAttributes(struct cudaPointerAttributes* told, const void* pointer) {
    memset(told, 0, sizeof *told);
    told->hostPointer = (void*)pointer;
    told->device = -1;
    pthread_mutex_lock(&lock);
    for (struct allocation* each = allocations; each; each = each->next)
        if ((char*)pointer >= each->start && (char*)pointer < each->start + each->size) {
            told->type = each->kind;
            told->device = each->device;
            told->devicePointer = (void*)pointer;
        }
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* Memory of another process cannot be opened. */
int cudaIpcGetMemHandle(void* handle, void* pointer) { return fail(NOT_SUPPORTED); }
int cudaIpcOpenMemHandle(void) { return fail(NOT_SUPPORTED); }
int cudaIpcGetEventHandle(void* handle, void* event) { return fail(NOT_SUPPORTED); }
int cudaIpcOpenEventHandle(void) { return fail(NOT_SUPPORTED); }

int cudaMemcpy(void* to, const void* from, size_t size, int kind) {
    memmove(to, from, size);
    return SUCCESS;
}

int cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
    return cudaMemcpy(to, from, size, kind);
}

int cudaMemcpyPeerAsync(void* to, int device, const void* from, int peer, size_t size, void* stream) {
    return cudaMemcpy(to, from, size, 0);
}

int cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                      int kind, void* stream) {
    for (size_t row = 0; row < height; row++)
        memmove((char*)to + row * to_pitch, (const char*)from + row * from_pitch, width);
    return SUCCESS;
}

int cudaMemset(void* to, int value, size_t size) {
    memset(to, value, size);
    return SUCCESS;
}

int cudaMemsetAsync(void* to, int value, size_t size, void* stream) { return cudaMemset(to, value, size); }

/* Symbols are variables of kernels, which nothing runs: one place stands for them all. */
static char symbols[1 << 20];

int cudaGetSymbolAddress(void** address, const void* symbol) {
    *address = symbols;
    return SUCCESS;
}

int cudaDeviceGetDefaultMemPool(void** pool, int device) {
    *pool = symbols;
    return check_device(device);
}

int cudaMemPoolGetAttribute(void* pool, int attribute, uint64_t* value) {
    *value = 0;
    return SUCCESS;
}
