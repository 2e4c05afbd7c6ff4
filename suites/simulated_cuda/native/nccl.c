/* libnccl: collectives between processes of one machine, over a file of shared memory. They are done when they are asked
   for, and those of a captured stream at each replay of the graph. Sends, receives and what is made of them are refused.
   Names and arguments are those of nccl.h. */
#include "device.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 }; /* ncclResult_t */
enum { SUM, PRODUCT, MAXIMUM, MINIMUM, AVERAGE };                                /* ncclRedOp_t */
enum { INT8, UINT8, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, BFLOAT16, TYPES }; /* ncclDataType_t */
enum {
    VERSION = 22809,   /* 10000 * major + 100 * minor + patch */
    SLOT = 1 << 20,    /* bytes that a rank shows the others at a time: containers often have 64 MiB for all */
    HEADER = 4096,
    PATIENCE = 1000,   /* turns in which a waiting rank only yields; then it sleeps between looks */
    NAP = 50000,       /* nanoseconds */
};

static const size_t SIZES[TYPES] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

struct id { char name[128]; };

struct communicator {
    int rank, ranks, splits;
    volatile int aborted;
    uint64_t meetings;      /* how often this rank has waited for all */
    uint64_t* arrived;      /* how many ranks have come to a meeting, all meetings together */
    char* memory;
    size_t size;
    struct id id;
};

int ncclGetVersion(int* version) {
    *version = VERSION;
    return SUCCESS;
}

const char* ncclGetErrorString(int error) {
    switch (error) {
        case SUCCESS: return "no error";
        case SYSTEM_ERROR: return "the shared memory of simulated NCCL cannot be used";
        case INVALID_ARGUMENT: return "simulated NCCL does not know this type or reduction";
        default: return "simulated NCCL does not have this operation";
    }
}

const char* ncclGetLastError(void* communicator) { return "see suites/simulated_cuda/native/nccl.c"; }

int ncclGetUniqueId(struct id* id) {
    static int made = 0;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->name, 64, "/simulated_nccl_%d_%d_%lx", getpid(), made++, (long)(now.tv_sec ^ now.tv_nsec));
    return SUCCESS;
}

/* Wait until all ranks are here. The count only rises, so that it needs no initial value and no second barrier. */
static int meet(struct communicator* own) {
    uint64_t all = ++own->meetings * (uint64_t)own->ranks;
    struct timespec nap = {0, NAP};
    __atomic_add_fetch(own->arrived, 1, __ATOMIC_SEQ_CST);
    for (int turn = 0; __atomic_load_n(own->arrived, __ATOMIC_SEQ_CST) < all; turn++) {
        if (own->aborted) return SYSTEM_ERROR;
        if (turn < PATIENCE) sched_yield();
        else nanosleep(&nap, NULL);
    }
    return SUCCESS;
}

static char* slot(struct communicator* own, int rank) { return own->memory + HEADER + (size_t)rank * SLOT; }

/* Communicators */

int ncclCommInitRankConfig(struct communicator** made, int ranks, struct id id, int rank, void* config) {
    struct communicator* own = calloc(1, sizeof *own);
    int file = shm_open(id.name, O_CREAT | O_RDWR, 0600);
    if (!own || file < 0) return SYSTEM_ERROR;
    own->rank = rank;
    own->ranks = ranks;
    own->id = id;
    own->size = HEADER + (size_t)ranks * SLOT;
    own->memory = ftruncate(file, (off_t)own->size) ? MAP_FAILED
                                                    : mmap(NULL, own->size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (own->memory == MAP_FAILED) return SYSTEM_ERROR;
    own->arrived = (uint64_t*)own->memory;
    *made = own;
    int error = meet(own);
    if (rank == 0) shm_unlink(id.name); /* everyone has it open: it ends with the last of them */
    return error;
}

int ncclCommInitRank(struct communicator** made, int ranks, struct id id, int rank) {
    return ncclCommInitRankConfig(made, ranks, id, rank, NULL);
}

int ncclCommInitRankScalable(struct communicator** made, int ranks, int rank, int ids, struct id* id, void* config) {
    return ncclCommInitRankConfig(made, ranks, id[0], rank, config);
}

/* Another thread may be waiting in the communicator: it stays, and is told to give up. */
int ncclCommAbort(struct communicator* own) {
    own->aborted = 1;
    return SUCCESS;
}

int ncclCommFinalize(struct communicator* own) { return SUCCESS; }

int ncclCommGetAsyncError(struct communicator* own, int* error) {
    *error = SUCCESS;
    return SUCCESS;
}

int ncclCommCount(struct communicator* own, int* ranks) {
    *ranks = own->ranks;
    return SUCCESS;
}

int ncclCommUserRank(struct communicator* own, int* rank) {
    *rank = own->rank;
    return SUCCESS;
}

int ncclCommRegister(struct communicator* own, void* memory, size_t size, void** handle) {
    *handle = memory;
    return SUCCESS;
}

int ncclCommDeregister(struct communicator* own, void* handle) { return SUCCESS; }
int ncclGroupStart(void) { return SUCCESS; }
int ncclGroupEnd(void) { return SUCCESS; }

/* Numbers */

static float of_half(uint16_t bits) {
    _Float16 number;
    memcpy(&number, &bits, 2);
    return (float)number;
}

static uint16_t to_half(double number) {
    _Float16 rounded = (_Float16)number;
    uint16_t bits;
    memcpy(&bits, &rounded, 2);
    return bits;
}

static float of_bfloat(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float number;
    memcpy(&number, &wide, 4);
    return number;
}

/* To the nearest, and between two to the even one. */
static uint16_t to_bfloat(double number) {
    float single = (float)number;
    uint32_t bits;
    memcpy(&bits, &single, 4);
    if (single != single) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static int is_integer(int type) { return type < FLOAT16; }

static int64_t integer_at(const char* numbers, size_t at, int type) {
    switch (type) {
        case INT8: return ((const int8_t*)numbers)[at];
        case UINT8: return ((const uint8_t*)numbers)[at];
        case INT32: return ((const int32_t*)numbers)[at];
        case UINT32: return ((const uint32_t*)numbers)[at];
        default: return ((const int64_t*)numbers)[at];
    }
}

static double number_at(const char* numbers, size_t at, int type) {
    switch (type) {
        case FLOAT16: return of_half(((const uint16_t*)numbers)[at]);
        case BFLOAT16: return of_bfloat(((const uint16_t*)numbers)[at]);
        case FLOAT32: return ((const float*)numbers)[at];
        default: return ((const double*)numbers)[at];
    }
}

static void put_integer(char* numbers, size_t at, int type, int64_t number) {
    memcpy(numbers + at * SIZES[type], &number, SIZES[type]); /* the low bytes come first */
}

static void put_number(char* numbers, size_t at, int type, double number) {
    switch (type) {
        case FLOAT16: ((uint16_t*)numbers)[at] = to_half(number); break;
        case BFLOAT16: ((uint16_t*)numbers)[at] = to_bfloat(number); break;
        case FLOAT32: ((float*)numbers)[at] = (float)number; break;
        default: ((double*)numbers)[at] = number;
    }
}

#define REDUCED(operation, sum, other)                \
    ((operation) == PRODUCT   ? (sum) * (other)       \
     : (operation) == MAXIMUM ? ((sum) > (other) ? (sum) : (other)) \
     : (operation) == MINIMUM ? ((sum) < (other) ? (sum) : (other)) \
                              : (sum) + (other))

/* Reduce what lies in the slots of all ranks, in their order, so that every rank gets the same bits. */
static void reduce_slots(struct communicator* own, char* to, size_t count, int type, int operation) {
    for (size_t at = 0; at < count; at++) {
        if (is_integer(type)) {
            int64_t sum = integer_at(slot(own, 0), at, type);
            for (int rank = 1; rank < own->ranks; rank++)
                sum = REDUCED(operation, sum, integer_at(slot(own, rank), at, type));
            put_integer(to, at, type, operation == AVERAGE ? sum / own->ranks : sum);
        } else {
            double sum = number_at(slot(own, 0), at, type);
            for (int rank = 1; rank < own->ranks; rank++)
                sum = REDUCED(operation, sum, number_at(slot(own, rank), at, type));
            put_number(to, at, type, operation == AVERAGE ? sum / own->ranks : sum);
        }
    }
}

/* Collectives: in pieces of a slot, each rank shows its piece, all meet, who wants it takes it, and all meet again. */

static size_t piece_at(size_t at, size_t count, size_t per_slot) { return count - at < per_slot ? count - at : per_slot; }

/* `receiver` is the rank that receives, or -1 for all. */
static int reduce(const char* from, char* to, size_t count, int type, int operation, int receiver,
                  struct communicator* own) {
    if (type < 0 || type >= TYPES || operation < 0 || operation > AVERAGE) return INVALID_ARGUMENT;
    size_t size = SIZES[type], piece;
    for (size_t at = 0; at < count; at += piece) {
        piece = piece_at(at, count, SLOT / size);
        memcpy(slot(own, own->rank), from + at * size, piece * size);
        if (meet(own)) return SYSTEM_ERROR;
        if (receiver < 0 || receiver == own->rank) reduce_slots(own, to + at * size, piece, type, operation);
        if (meet(own)) return SYSTEM_ERROR;
    }
    return SUCCESS;
}

static int reduce_scatter(const char* from, char* to, size_t count, int type, int operation, struct communicator* own) {
    int error = type < 0 || type >= TYPES ? INVALID_ARGUMENT : SUCCESS;
    for (int rank = 0; rank < own->ranks && !error; rank++)
        error = reduce(from + (size_t)rank * count * SIZES[type], to, count, type, operation, rank, own);
    return error;
}

static size_t bytes_of(size_t count, int type) {
    return type < TYPES ? count * SIZES[type] : count; /* the types beyond have one byte */
}

static int gather(const char* from, char* to, size_t bytes, struct communicator* own) {
    for (size_t at = 0, piece; at < bytes; at += piece) {
        piece = piece_at(at, bytes, SLOT);
        memcpy(slot(own, own->rank), from + at, piece);
        if (meet(own)) return SYSTEM_ERROR;
        for (int rank = 0; rank < own->ranks; rank++) memcpy(to + (size_t)rank * bytes + at, slot(own, rank), piece);
        if (meet(own)) return SYSTEM_ERROR;
    }
    return SUCCESS;
}

static int broadcast(const char* from, char* to, size_t bytes, int root, struct communicator* own) {
    for (size_t at = 0, piece; at < bytes; at += piece) {
        piece = piece_at(at, bytes, SLOT);
        if (own->rank == root) memcpy(slot(own, root), from + at, piece);
        if (meet(own)) return SYSTEM_ERROR;
        memmove(to + at, slot(own, root), piece);
        if (meet(own)) return SYSTEM_ERROR;
    }
    return SUCCESS;
}

/* One collective as it was asked for. */
struct call {
    enum { REDUCE, REDUCE_SCATTER, GATHER, BROADCAST } kind;
    const char* from;
    char* to;
    size_t count;
    int type, operation, root;
    struct communicator* own;
};

static int perform(const struct call* asked) {
    size_t bytes = bytes_of(asked->count, asked->type);
    switch (asked->kind) {
        case REDUCE:
            return reduce(asked->from, asked->to, asked->count, asked->type, asked->operation, asked->root, asked->own);
        case REDUCE_SCATTER:
            return reduce_scatter(asked->from, asked->to, asked->count, asked->type, asked->operation, asked->own);
        case GATHER: return gather(asked->from, asked->to, bytes, asked->own);
        default: return broadcast(asked->from, asked->to, bytes, asked->root, asked->own);
    }
}

/* Graphs: what is asked for during a capture is kept, and graphs.py repeats it by its number at each replay. */

int cudaStreamIsCapturing(void* stream, int* status) __attribute__((weak)); /* libcudart's, which torch loads as well */

static struct call* captured = NULL;
static int captured_count = 0;
static int (*tell_captured)(int number) = NULL; /* returns whether a graph keeps the call */

void simulated_nccl_on_capture(int (*told)(int number)) { tell_captured = told; }

int simulated_nccl_repeat(int number) { return captured[number].own ? perform(&captured[number]) : INVALID_USAGE; }

static int ask(struct call asked, void* stream) {
    int capturing = 0;
    if (tell_captured && cudaStreamIsCapturing) cudaStreamIsCapturing(stream, &capturing);
    if (!capturing) return perform(&asked);
    struct call* more = realloc(captured, sizeof *captured * ((size_t)captured_count + 1));
    if (!more) return SYSTEM_ERROR;
    captured = more;
    captured[captured_count] = asked;
    return tell_captured(captured_count++) ? SUCCESS : INVALID_USAGE;
}

/* What a graph keeps for this communicator cannot be repeated any more. */
int ncclCommDestroy(struct communicator* own) {
    for (int at = 0; at < captured_count; at++)
        if (captured[at].own == own) captured[at].own = NULL;
    munmap(own->memory, own->size);
    free(own);
    return SUCCESS;
}

int ncclAllReduce(const char* from, char* to, size_t count, int type, int operation, struct communicator* own,
                  void* stream) {
    return ask((struct call){REDUCE, from, to, count, type, operation, -1, own}, stream);
}

int ncclReduce(const char* from, char* to, size_t count, int type, int operation, int root, struct communicator* own,
               void* stream) {
    return ask((struct call){REDUCE, from, to, count, type, operation, root, own}, stream);
}

int ncclReduceScatter(const char* from, char* to, size_t count, int type, int operation, struct communicator* own,
                      void* stream) {
    return ask((struct call){REDUCE_SCATTER, from, to, count, type, operation, 0, own}, stream);
}

int ncclAllGather(const char* from, char* to, size_t count, int type, struct communicator* own, void* stream) {
    return ask((struct call){GATHER, from, to, count, type, 0, 0, own}, stream);
}

int ncclBroadcast(const char* from, char* to, size_t count, int type, int root, struct communicator* own,
                  void* stream) {
    return ask((struct call){BROADCAST, from, to, count, type, 0, root, own}, stream);
}

int ncclBcast(char* memory, size_t count, int type, int root, struct communicator* own, void* stream) {
    return ncclBroadcast(memory, memory, count, type, root, own, stream);
}

/* Ranks of one color make a communicator of their own, in the order of their keys. A negative color makes none. */
int ncclCommSplit(struct communicator* own, int color, int key, struct communicator** made, void* config) {
    int mine[2] = {color, key}, ranks = 0, rank = 0, error;
    int* all = malloc(sizeof mine * (size_t)own->ranks);
    if (!all) return SYSTEM_ERROR;
    error = gather((char*)mine, (char*)all, sizeof mine, own);
    for (int other = 0; other < own->ranks; other++) {
        if (all[2 * other] != color) continue;
        ranks++;
        rank += all[2 * other + 1] < key || (all[2 * other + 1] == key && other < own->rank);
    }
    free(all);
    struct id id = own->id;
    size_t used = strlen(id.name);
    snprintf(id.name + used, sizeof id.name - used, "_%d_%d", own->splits++, color);
    *made = NULL;
    return error || color < 0 ? error : ncclCommInitRankConfig(made, ranks, id, rank, config);
}
