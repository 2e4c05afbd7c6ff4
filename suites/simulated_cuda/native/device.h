/* What all libraries say of the simulated devices: how many, their names, UUIDs, sizes and memory. */
#ifndef SIMULATED_DEVICE_H
#define SIMULATED_DEVICE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICE_NAME "Simulated CUDA device"
#define MOST_DEVICES 16

enum {
    CUDA_VERSION_SERVED = 13000, /* 1000 * major + 10 * minor */
    CAPABILITY_MAJOR = 9,        /* Hopper: the dispatch of its kernels is what the suite is written for */
    CAPABILITY_MINOR = 0,
    MULTIPROCESSORS = 132,       /* this and the sizes below are those of an H100 or H200 */
    WARP = 32,
    THREADS_PER_BLOCK = 1024,
    THREADS_PER_MULTIPROCESSOR = 2048,
    BLOCKS_PER_MULTIPROCESSOR = 32,
    REGISTERS = 65536,
    SHARED_PER_BLOCK = 49152,
    SHARED_PER_BLOCK_OPTIN = 232448,
    SHARED_PER_MULTIPROCESSOR = 233472,
    SHARED_RESERVED = 1024,
    L2_CACHE = 50 << 20,
    MEMORY_BUS_BITS = 5120,
    CLOCK_MHZ = 1980,
    MEMORY_CLOCK_MHZ = 2619,
    UUID_BYTES = 16,
};

/* How many devices the machine has: what NVML counts, whatever CUDA_VISIBLE_DEVICES hides. */
static inline int devices_of_machine(void) {
    const char* asked = getenv("SIMULATED_CUDA_DEVICES");
    int count = asked && *asked ? atoi(asked) : 1;
    return count < 0 ? 0 : count > MOST_DEVICES ? MOST_DEVICES : count;
}

static inline void uuid_of(int physical, unsigned char uuid[UUID_BYTES]) {
    memset(uuid, 0, UUID_BYTES);
    memcpy(uuid, "SIMULATED", 9);
    uuid[UUID_BYTES - 1] = (unsigned char)(physical + 1);
}

/* The UUID as NVML and CUDA_VISIBLE_DEVICES write it; `text` has room for 41 bytes. */
static inline void uuid_text(int physical, char* text) {
    unsigned char uuid[UUID_BYTES];
    uuid_of(physical, uuid);
    text += sprintf(text, "GPU");
    for (int at = 0; at < UUID_BYTES; at++)
        text += sprintf(text, at == 0 || at == 4 || at == 6 || at == 8 || at == 10 ? "-%02x" : "%02x", uuid[at]);
}

/* The device that one word of CUDA_VISIBLE_DEVICES names, or -1. */
static inline int device_named(const char* word, size_t length) {
    int count = devices_of_machine();
    for (int physical = 0; physical < count; physical++) {
        char uuid[64];
        uuid_text(physical, uuid);
        if (length >= 4 && strncmp(uuid, word, length) == 0) return physical;
    }
    char* end;
    long index = strtol(word, &end, 10);
    return end == word + length && length > 0 && index >= 0 && index < count ? (int)index : -1;
}

/* Fill in the physical devices that a process may see, in its order. A word that names none ends the list, and one that
   comes twice empties it, as in CUDA. */
static inline int visible_devices(int physical[MOST_DEVICES]) {
    const char* list = getenv("CUDA_VISIBLE_DEVICES");
    int count = 0;
    if (!list) {
        for (; count < devices_of_machine(); count++) physical[count] = count;
        return count;
    }
    while (count < MOST_DEVICES) {
        list += strspn(list, " ");
        size_t length = strcspn(list, ", ");
        int device = device_named(list, length);
        if (device < 0) return count;
        for (int other = 0; other < count; other++)
            if (physical[other] == device) return 0;
        physical[count++] = device;
        list += length + strspn(list + length, " ");
        if (*list++ != ',') return count;
    }
    return count;
}

/* Bytes of one line of /proc/meminfo. */
static inline size_t host_memory(const char* name) {
    char line[128];
    size_t kibibytes = 0;
    FILE* file = fopen("/proc/meminfo", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0) sscanf(line + strlen(name), ": %zu", &kibibytes);
    fclose(file);
    return kibibytes << 10;
}

static inline size_t total_memory(void) { return host_memory("MemTotal"); }
static inline size_t free_memory(void) { return host_memory("MemAvailable"); }

/* Attributes by their number, which cudaDeviceAttr (driver_types.h) and CUdevice_attribute (cuda.h) share. */
enum attribute {
    ATTRIBUTE_THREADS_PER_BLOCK = 1,
    ATTRIBUTE_BLOCK_X = 2,
    ATTRIBUTE_BLOCK_Y = 3,
    ATTRIBUTE_BLOCK_Z = 4,
    ATTRIBUTE_GRID_X = 5,
    ATTRIBUTE_GRID_Y = 6,
    ATTRIBUTE_GRID_Z = 7,
    ATTRIBUTE_SHARED_PER_BLOCK = 8,
    ATTRIBUTE_WARP = 10,
    ATTRIBUTE_PITCH = 11,
    ATTRIBUTE_REGISTERS_PER_BLOCK = 12,
    ATTRIBUTE_CLOCK_KHZ = 13,
    ATTRIBUTE_TEXTURE_ALIGNMENT = 14,
    ATTRIBUTE_MULTIPROCESSORS = 16,
    ATTRIBUTE_CONCURRENT_KERNELS = 31,
    ATTRIBUTE_ECC = 32,
    ATTRIBUTE_MEMORY_CLOCK_KHZ = 36,
    ATTRIBUTE_MEMORY_BUS = 37,
    ATTRIBUTE_L2_CACHE = 38,
    ATTRIBUTE_THREADS_PER_MULTIPROCESSOR = 39,
    ATTRIBUTE_UNIFIED_ADDRESSES = 41,
    ATTRIBUTE_MAJOR = 75,
    ATTRIBUTE_MINOR = 76,
    ATTRIBUTE_STREAM_PRIORITIES = 78,
    ATTRIBUTE_SHARED_PER_MULTIPROCESSOR = 81,
    ATTRIBUTE_REGISTERS_PER_MULTIPROCESSOR = 82,
    ATTRIBUTE_COOPERATIVE_LAUNCH = 95,
    ATTRIBUTE_SHARED_OPTIN = 97,
    ATTRIBUTE_BLOCKS_PER_MULTIPROCESSOR = 106,
    ATTRIBUTE_SHARED_RESERVED = 111,
    ATTRIBUTE_MEMORY_POOLS = 115,
    ATTRIBUTE_CLUSTERS = 120,
};

static inline int device_attribute(int attribute) {
    switch (attribute) {
        case ATTRIBUTE_THREADS_PER_BLOCK: return THREADS_PER_BLOCK;
        case ATTRIBUTE_BLOCK_X: case ATTRIBUTE_BLOCK_Y: return THREADS_PER_BLOCK;
        case ATTRIBUTE_BLOCK_Z: return 64;
        case ATTRIBUTE_GRID_X: case ATTRIBUTE_PITCH: return 2147483647;
        case ATTRIBUTE_GRID_Y: case ATTRIBUTE_GRID_Z: return 65535;
        case ATTRIBUTE_SHARED_PER_BLOCK: return SHARED_PER_BLOCK;
        case ATTRIBUTE_SHARED_OPTIN: return SHARED_PER_BLOCK_OPTIN;
        case ATTRIBUTE_SHARED_PER_MULTIPROCESSOR: return SHARED_PER_MULTIPROCESSOR;
        case ATTRIBUTE_SHARED_RESERVED: return SHARED_RESERVED;
        case ATTRIBUTE_WARP: return WARP;
        case ATTRIBUTE_REGISTERS_PER_BLOCK: case ATTRIBUTE_REGISTERS_PER_MULTIPROCESSOR: return REGISTERS;
        case ATTRIBUTE_CLOCK_KHZ: return CLOCK_MHZ * 1000;
        case ATTRIBUTE_MEMORY_CLOCK_KHZ: return MEMORY_CLOCK_MHZ * 1000;
        case ATTRIBUTE_MEMORY_BUS: return MEMORY_BUS_BITS;
        case ATTRIBUTE_TEXTURE_ALIGNMENT: return 512;
        case ATTRIBUTE_MULTIPROCESSORS: return MULTIPROCESSORS;
        case ATTRIBUTE_L2_CACHE: return L2_CACHE;
        case ATTRIBUTE_THREADS_PER_MULTIPROCESSOR: return THREADS_PER_MULTIPROCESSOR;
        case ATTRIBUTE_BLOCKS_PER_MULTIPROCESSOR: return BLOCKS_PER_MULTIPROCESSOR;
        case ATTRIBUTE_MAJOR: return CAPABILITY_MAJOR;
        case ATTRIBUTE_MINOR: return CAPABILITY_MINOR;
        case ATTRIBUTE_CONCURRENT_KERNELS: case ATTRIBUTE_ECC: case ATTRIBUTE_UNIFIED_ADDRESSES: return 1;
        case ATTRIBUTE_STREAM_PRIORITIES: case ATTRIBUTE_COOPERATIVE_LAUNCH: return 1;
        case ATTRIBUTE_MEMORY_POOLS: case ATTRIBUTE_CLUSTERS: return 1;
        default: return 0;
    }
}

#endif
