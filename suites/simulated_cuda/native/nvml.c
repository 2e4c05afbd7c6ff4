/* libnvidia-ml: healthy cards that call themselves simulated. Names and structures are those of nvml.h. */
#include "device.h"

#include <unistd.h>

enum {
    SUCCESS = 0,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    MILLIWATTS = 700000,
    DEGREES = 40,
    /* Nanoseconds for which clocks were lowered; see nvmlFieldValueEnums. */
    FIELD_POWER_CAP = 74,
    FIELD_SOFTWARE_THERMAL = 269,
    FIELD_HARDWARE_THERMAL = 270,
    FIELD_POWER_BRAKE = 271,
    UNSIGNED_LONG_LONG = 3, /* nvmlValueType_t */
    MEMORY_CLOCK = 2,       /* nvmlClockType_t */
};

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
struct process { unsigned pid; unsigned long long used; unsigned instance, compute_instance; };
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; };
struct field {
    unsigned id, scope;
    long long timestamp, latency;
    int type, result;
    unsigned long long value;
};

/* A handle is the address of a device's place here. */
static char devices[MOST_DEVICES];

static int index_of(const char* handle) { return (int)(handle - devices); }

int nvmlInit_v2(void) { return devices_of_machine() ? SUCCESS : DRIVER_NOT_LOADED; }
int nvmlInit(void) { return nvmlInit_v2(); }
int nvmlInitWithFlags(unsigned flags) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }

const char* nvmlErrorString(int error) {
    switch (error) {
        case SUCCESS: return "Success";
        case NOT_SUPPORTED: return "Not Supported";
        case NOT_FOUND: return "Not Found";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        default: return "error of the simulated CUDA device";
    }
}

static int write_text(char* to, unsigned size, const char* text) {
    return (unsigned)snprintf(to, size, "%s", text) < size ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlSystemGetDriverVersion(char* version, unsigned size) { return write_text(version, size, "580.0 (simulated)"); }
int nvmlSystemGetNVMLVersion(char* version, unsigned size) { return write_text(version, size, "13.580.0"); }

int nvmlSystemGetCudaDriverVersion_v2(int* version) {
    *version = CUDA_VERSION_SERVED;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int* version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

/* Which device */

int nvmlDeviceGetCount_v2(unsigned* count) {
    *count = (unsigned)devices_of_machine();
    return SUCCESS;
}

int nvmlDeviceGetCount(unsigned* count) { return nvmlDeviceGetCount_v2(count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, char** handle) {
    if (index >= (unsigned)devices_of_machine()) return INVALID_ARGUMENT;
    *handle = devices + index;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex(unsigned index, char** handle) { return nvmlDeviceGetHandleByIndex_v2(index, handle); }

int nvmlDeviceGetHandleByUUID(const char* uuid, char** handle) {
    int index = strncmp(uuid, "GPU-", 4) ? -1 : device_named(uuid, strlen(uuid));
    return index < 0 ? NOT_FOUND : nvmlDeviceGetHandleByIndex_v2((unsigned)index, handle);
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* text, char** handle) {
    unsigned domain, bus;
    if (sscanf(text, "%x:%x", &domain, &bus) != 2 || bus == 0) return NOT_FOUND;
    return nvmlDeviceGetHandleByIndex_v2(bus - 1, handle);
}

int nvmlDeviceGetIndex(char* handle, unsigned* index) {
    *index = (unsigned)index_of(handle);
    return SUCCESS;
}

int nvmlDeviceGetName(char* handle, char* name, unsigned size) { return write_text(name, size, DEVICE_NAME); }

int nvmlDeviceGetUUID(char* handle, char* uuid, unsigned size) {
    char text[64];
    uuid_text(index_of(handle), text);
    return write_text(uuid, size, text);
}

int nvmlDeviceGetPciInfo_v3(char* handle, struct pci* told) {
    memset(told, 0, sizeof *told);
    told->bus = (unsigned)index_of(handle) + 1;
    snprintf(told->legacy, sizeof told->legacy, "0000:%02x:00.0", told->bus);
    snprintf(told->text, sizeof told->text, "00000000:%02x:00.0", told->bus);
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(char* handle, int* major, int* minor) {
    *major = CAPABILITY_MAJOR;
    *minor = CAPABILITY_MINOR;
    return SUCCESS;
}

/* Memory and processes */

int nvmlDeviceGetMemoryInfo(char* handle, struct memory* told) {
    told->total = total_memory();
    told->free = free_memory();
    told->used = told->total - told->free;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(char* handle, struct memory_v2* told) {
    struct memory plain;
    nvmlDeviceGetMemoryInfo(handle, &plain);
    told->reserved = 0;
    told->total = plain.total;
    told->free = plain.free;
    told->used = plain.used;
    return SUCCESS;
}

/* The asking process alone: nobody else computes on a device that exists in no other process. */
int nvmlDeviceGetComputeRunningProcesses_v3(char* handle, unsigned* count, struct process* told) {
    unsigned room = *count;
    *count = 1;
    if (room < 1) return INSUFFICIENT_SIZE;
    *told = (struct process){(unsigned)getpid(), 0, 0xffffffff, 0xffffffff};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses(char* handle, unsigned* count, struct process* told) {
    return nvmlDeviceGetComputeRunningProcesses_v3(handle, count, told);
}

int nvmlDeviceGetComputeRunningProcesses_v2(char* handle, unsigned* count, struct process* told) {
    return nvmlDeviceGetComputeRunningProcesses_v3(handle, count, told);
}

/* Health */

int nvmlDeviceGetEccMode(char* handle, int* current, int* pending) {
    *current = *pending = 1;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(char* handle, int type, int counter, unsigned long long* count) {
    *count = 0;
    return SUCCESS;
}

int nvmlDeviceGetRemappedRows(char* handle, unsigned* corrected, unsigned* uncorrected, unsigned* pending,
                              unsigned* failed) {
    *corrected = *uncorrected = *pending = *failed = 0;
    return SUCCESS;
}

int nvmlDeviceGetFieldValues(char* handle, int count, struct field* fields) {
    for (int at = 0; at < count; at++) {
        unsigned id = fields[at].id;
        int known = id == FIELD_POWER_CAP || (id >= FIELD_SOFTWARE_THERMAL && id <= FIELD_POWER_BRAKE);
        fields[at].result = known ? SUCCESS : NOT_SUPPORTED;
        fields[at].type = UNSIGNED_LONG_LONG;
        fields[at].value = 0;
    }
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(char* handle, unsigned long long* bits) {
    *bits = 0;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(char* handle, unsigned long long* bits) {
    return nvmlDeviceGetCurrentClocksEventReasons(handle, bits);
}

int nvmlDeviceGetClockInfo(char* handle, int clock, unsigned* megahertz) {
    *megahertz = clock == MEMORY_CLOCK ? MEMORY_CLOCK_MHZ : CLOCK_MHZ;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(char* handle, int clock, unsigned* megahertz) {
    return nvmlDeviceGetClockInfo(handle, clock, megahertz);
}

int nvmlDeviceGetEnforcedPowerLimit(char* handle, unsigned* milliwatts) {
    *milliwatts = MILLIWATTS;
    return SUCCESS;
}

int nvmlDeviceGetPowerManagementDefaultLimit(char* handle, unsigned* milliwatts) {
    return nvmlDeviceGetEnforcedPowerLimit(handle, milliwatts);
}

int nvmlDeviceGetPowerUsage(char* handle, unsigned* milliwatts) {
    *milliwatts = MILLIWATTS / 10;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(char* handle, int sensor, unsigned* degrees) {
    *degrees = DEGREES;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(char* handle, unsigned told[2]) {
    told[0] = told[1] = 0; /* of multiprocessors and memory, per cent */
    return SUCCESS;
}

/* Links between cards: there are none. */

int nvmlDeviceGetNvLinkRemoteDeviceType(char* handle, unsigned link, int* type) { return NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(char* handle, unsigned link, struct pci* told) { return NOT_SUPPORTED; }
int nvmlDeviceGetNvLinkState(char* handle, unsigned link, int* active) { return NOT_SUPPORTED; }
int nvmlDeviceGetGpuFabricInfoV(char* handle, void* told) { return NOT_SUPPORTED; }

int nvmlDeviceGetP2PStatus(char* handle, char* other, int index, int* status) {
    *status = 1; /* NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED */
    return SUCCESS;
}
