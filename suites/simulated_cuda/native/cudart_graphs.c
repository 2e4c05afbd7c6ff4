/* libcudart's graphs: which stream is capturing. What a graph replays is kept and run by compute.py. */
#include "cudart.h"

enum { NONE = 0, ACTIVE = 1, MOST_STREAMS = 32 }; /* cudaStreamCaptureStatus of driver_types.h */

static void* streams[MOST_STREAMS];
static int stream_count = 0;
static unsigned long long capture_id = 0;
static char graph[64];

int is_capturing(void* stream) {
    for (int at = 0; at < stream_count; at++)
        if (streams[at] == stream) return 1;
    return 0;
}

void join_capture(void* stream) {
    if (stream_count && stream_count < MOST_STREAMS && !is_capturing(stream)) streams[stream_count++] = stream;
}

int cudaStreamBeginCapture(void* stream, int mode) {
    streams[0] = stream;
    stream_count = 1;
    capture_id++;
    return SUCCESS;
}

int cudaStreamEndCapture(void* stream, void** made) {
    stream_count = 0;
    *made = graph;
    return SUCCESS;
}

int cudaStreamIsCapturing(void* stream, int* status) {
    *status = is_capturing(stream) ? ACTIVE : NONE;
    return SUCCESS;
}

int cudaStreamGetCaptureInfo(void* stream, int* status, unsigned long long* id, void** of_graph,
                             const void** dependencies, const void** edges, size_t* count) {
    *status = is_capturing(stream) ? ACTIVE : NONE;
    if (id) *id = capture_id;
    if (of_graph) *of_graph = graph;
    if (count) *count = 0;
    return SUCCESS;
}

/* A graph is never empty: torch warns of those. */
int cudaGraphGetNodes(void* of_graph, void** nodes, size_t* count) {
    *count = 1;
    return SUCCESS;
}

int cudaGraphInstantiateWithFlags(void** made, void* of_graph, unsigned long long flags) {
    *made = graph;
    return SUCCESS;
}

/* Conditional nodes would have to decide at each replay. */
int cudaStreamBeginCaptureToGraph(void) { return fail(NOT_SUPPORTED); }
int cudaGraphConditionalHandleCreate(void) { return fail(NOT_SUPPORTED); }
