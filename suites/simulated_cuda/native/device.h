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

/* An attribute by the number that cudaDeviceAttr (driver_types.h) and CUdevice_attribute (cuda.h) share. */
static inline int device_attribute(int attribute) {
    switch (attribute) {
        case 1: return THREADS_PER_BLOCK;
        case 2: case 3: return 1024;             /* block, x and y */
        case 4: return 64;                       /* block, z */
        case 5: return 2147483647;               /* grid, x */
        case 6: case 7: return 65535;            /* grid, y and z */
        case 8: return SHARED_PER_BLOCK;
        case 10: return WARP;
        case 12: return REGISTERS;
        case 13: return CLOCK_MHZ * 1000;
        case 16: return MULTIPROCESSORS;
        case 36: return MEMORY_CLOCK_MHZ * 1000;
        case 37: return MEMORY_BUS_BITS;
        case 38: return L2_CACHE;
        case 39: return THREADS_PER_MULTIPROCESSOR;
        case 75: return CAPABILITY_MAJOR;
        case 76: return CAPABILITY_MINOR;
        case 81: return SHARED_PER_MULTIPROCESSOR;
        case 82: return REGISTERS;
        case 97: return SHARED_PER_BLOCK_OPTIN;
        case 106: return BLOCKS_PER_MULTIPROCESSOR;
        case 111: return SHARED_RESERVED;
        case 11: return 2147483647;              /* pitch */
        case 14: return 512;                     /* alignment of textures */
        case 31: case 32: case 41: return 1;     /* concurrent kernels, ECC, unified addresses */
        case 78: case 95: case 115: case 120: return 1; /* priorities, cooperative launch, pools, clusters */
        default: return 0;
    }
}

#endif
