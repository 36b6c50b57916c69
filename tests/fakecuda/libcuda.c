/* A test double of the CUDA driver, libcuda.so.1: what the station's code calls of it, over host memory.

   It runs no kernel. What is put into a stream is done when somebody waits for the stream, not before, so
   that code that forgets to wait meets what it may meet on a card. Every place in device memory is checked
   against what is allocated. All else that pycuda is linked to is made by build.py.

   LIBCUDA_DOUBLE_CARDS    how many cards there are (1)
   LIBCUDA_DOUBLE_CUDA     the CUDA that the driver knows (13000)
   LIBCUDA_DOUBLE_FAIL     FUNCTION:CODE:N lets the Nth call of a function, and all that follow, fail
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { CARD_BYTES = 1 << 28, MOST = 4096, CONTEXT = 0xC0 };

typedef struct Event { struct timespec at; int is_done; } Event;
typedef struct Op { void *to; const void *from; size_t bytes; int to_device;
                    void (*call)(void *); void *argument; Event *event; struct Op *next; } Op;
typedef struct Queue { Op *first, *last; } Queue;
typedef struct Stream { Queue work; Queue *recording; int is_invalid; } Stream;
typedef struct Block { char *start; size_t bytes; int is_device; } Block;

static Block blocks[MOST];
static int block_count, is_initialised, depth, sticky;
static Stream *capturing, *all_streams[64];
static long devices, pinned, streams, events, graphs, launches;

/* Errors that were ordered, and the sticky one that ends all work of a process. */
static const char *code_name(int code)
{
    return code == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE"
         : code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
         : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
         : code == CAPTURE_UNSUPPORTED ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" : "CUDA_ERROR_UNKNOWN";
}

static int ordered(const char *function)
{
    static char wanted[64];
    static int code, calls_left = -1;
    if (calls_left < 0) {
        const char *order = getenv("LIBCUDA_DOUBLE_FAIL");
        calls_left = 0;
        if (order && sscanf(order, "%63[^:]:%d:%d", wanted, &code, &calls_left) != 3) abort();
    }
    if (!*wanted || strcmp(function, wanted)) return OK;
    if (calls_left > 1) { calls_left--; return OK; }
    if (code == ILLEGAL_ADDRESS) sticky = code;
    return code;
}

#define BEGIN do { int code_ = sticky ? sticky : ordered(__func__); if (code_) return code_; } while (0)
#define BEGIN_IN_CONTEXT do { BEGIN; if (!depth) return INVALID_CONTEXT; } while (0)
/* A call that cannot be recorded spoils the recording. */
#define NOT_IN_CAPTURE do { if (capturing) { capturing->is_invalid = 1; return CAPTURE_UNSUPPORTED; } } while (0)

void double_fault(int code) { sticky = code; }

/* Memory */
static int lies_in(int is_device, const void *place, size_t bytes)
{
    const char *start = place;
    for (int i = 0; i < block_count; i++)
        if (blocks[i].is_device == is_device && start >= blocks[i].start
            && start + bytes <= blocks[i].start + blocks[i].bytes) return 1;
    return 0;
}

int double_holds(uint64_t place, size_t bytes) { return lies_in(1, (void *)place, bytes); }

static int take(void **start, size_t bytes, int is_device)
{
    size_t taken = 0;
    for (int i = 0; i < block_count; i++) if (blocks[i].is_device) taken += blocks[i].bytes;
    if (!bytes) return INVALID_VALUE;
    if (block_count == MOST || (is_device && taken + bytes > CARD_BYTES)) return OUT_OF_MEMORY;
    if (posix_memalign(start, 512, bytes)) return OUT_OF_MEMORY;
    memset(*start, 0xCD, bytes);
    blocks[block_count++] = (Block){*start, bytes, is_device};
    *(is_device ? &devices : &pinned) += 1;
    return OK;
}

static int work_off(Stream *stream);

static int give_back(void *start, int is_device)
{
    Block *block = NULL;
    for (int i = 0; i < 64; i++) if (all_streams[i]) work_off(all_streams[i]); /* the real one waits, too */
    for (int i = 0; i < block_count; i++)
        if (blocks[i].start == start && blocks[i].is_device == is_device) block = &blocks[i];
    if (!block) return INVALID_VALUE;
    memset(start, 0xDD, block->bytes);
    free(start);
    *block = blocks[--block_count];
    *(is_device ? &devices : &pinned) -= 1;
    return OK;
}

int cuMemAlloc_v2(uint64_t *place, size_t bytes) { BEGIN_IN_CONTEXT; NOT_IN_CAPTURE; return take((void **)place, bytes, 1); }
int cuMemFree_v2(uint64_t place) { BEGIN_IN_CONTEXT; NOT_IN_CAPTURE; return give_back((void *)place, 1); }
int cuMemHostAlloc(void **start, size_t bytes, unsigned flags) { BEGIN_IN_CONTEXT; return take(start, bytes, 0); }
int cuMemFreeHost(void *start) { BEGIN_IN_CONTEXT; return give_back(start, 0); }

/* Streams: queues of work */
static void append(Queue *queue, Op work)
{
    Op *op = malloc(sizeof *op);
    *op = work;
    op->next = NULL;
    if (queue->last) queue->last->next = op; else queue->first = op;
    queue->last = op;
}

static void empty(Queue *queue)
{
    for (Op *op = queue->first, *next; op; op = next) { next = op->next; free(op); }
    *queue = (Queue){0};
}

static void append_all(Queue *queue, const Queue *other)
{
    for (Op *op = other->first; op; op = op->next) append(queue, *op);
}

static int enqueue(Stream *stream, Op work)
{
    if (!stream) return INVALID_HANDLE;
    append(stream->recording ? stream->recording : &stream->work, work);
    return OK;
}

static int work_off(Stream *stream)
{
    for (Op *op = stream->work.first; op && !sticky; op = op->next) {
        if (op->call) op->call(op->argument);
        else if (op->event) { clock_gettime(CLOCK_MONOTONIC, &op->event->at); op->event->is_done = 1; }
        else if (lies_in(1, op->to_device ? op->to : op->from, op->bytes) /* not given back since */
                 && lies_in(0, op->to_device ? op->from : op->to, op->bytes)) memcpy(op->to, op->from, op->bytes);
        else sticky = ILLEGAL_ADDRESS;
    }
    empty(&stream->work);
    return sticky;
}

static int copy(void *to, const void *from, size_t bytes, int to_device, Stream *stream)
{
    if (!lies_in(1, to_device ? to : from, bytes)) return INVALID_VALUE;
    if (!lies_in(0, to_device ? from : to, bytes)) return NOT_SUPPORTED; /* pageable: the real one copies at once */
    return enqueue(stream, (Op){.to = to, .from = from, .bytes = bytes, .to_device = to_device});
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, Stream *stream)
{
    BEGIN_IN_CONTEXT; return copy((void *)to, from, bytes, 1, stream);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, Stream *stream)
{
    BEGIN_IN_CONTEXT; return copy(to, (void *)from, bytes, 0, stream);
}
int cuLaunchHostFunc(Stream *stream, void (*call)(void *), void *argument)
{
    BEGIN_IN_CONTEXT; return enqueue(stream, (Op){.call = call, .argument = argument});
}
int cuStreamCreate(Stream **stream, unsigned flags)
{
    BEGIN_IN_CONTEXT;
    for (int i = 0; i < 64; i++)
        if (!all_streams[i]) { *stream = all_streams[i] = calloc(1, sizeof **stream); streams++; return OK; }
    return OUT_OF_MEMORY;
}
int cuStreamDestroy_v2(Stream *stream)
{
    BEGIN;
    work_off(stream);
    for (int i = 0; i < 64; i++) if (all_streams[i] == stream) all_streams[i] = NULL;
    free(stream);
    streams--;
    return OK;
}
int cuStreamSynchronize(Stream *stream)
{
    BEGIN_IN_CONTEXT; NOT_IN_CAPTURE; return stream ? work_off(stream) : INVALID_HANDLE;
}

int cuEventCreate(Event **event, unsigned flags)
{
    BEGIN_IN_CONTEXT; *event = calloc(1, sizeof **event); events++; return OK;
}
int cuEventDestroy_v2(Event *event) { BEGIN; free(event); events--; return OK; }
int cuEventRecord(Event *event, Stream *stream)
{
    BEGIN_IN_CONTEXT; event->is_done = 0; return enqueue(stream, (Op){.event = event});
}
int cuEventElapsedTime_v2(float *ms, const Event *start, const Event *end)
{
    BEGIN;
    if (!start->is_done || !end->is_done) return INVALID_HANDLE;
    *ms = (end->at.tv_sec - start->at.tv_sec) * 1e3f + (end->at.tv_nsec - start->at.tv_nsec) / 1e6f;
    return OK;
}

/* Graphs */
int cuStreamBeginCapture_v2(Stream *stream, int mode)
{
    BEGIN_IN_CONTEXT;
    if (!stream || stream->recording) return INVALID_VALUE;
    stream->recording = calloc(1, sizeof(Queue));
    stream->is_invalid = 0;
    capturing = stream;
    graphs++;
    return OK;
}

int cuGraphDestroy(Queue *graph) { BEGIN; empty(graph); free(graph); graphs--; return OK; }

int cuStreamEndCapture(Stream *stream, Queue **graph)
{
    BEGIN;
    if (!stream->recording) return INVALID_VALUE;
    *graph = stream->recording;
    stream->recording = NULL;
    capturing = NULL;
    if (!stream->is_invalid) return OK;
    cuGraphDestroy(*graph);
    *graph = NULL;
    return CAPTURE_INVALIDATED;
}

int cuGraphInstantiateWithFlags(Queue **executable, const Queue *graph, uint64_t flags)
{
    BEGIN;
    if (!graph) return INVALID_VALUE;
    *executable = calloc(1, sizeof **executable);
    append_all(*executable, graph);
    graphs++;
    return OK;
}

int cuGraphLaunch(const Queue *executable, Stream *stream)
{
    BEGIN_IN_CONTEXT; append_all(&stream->work, executable); launches++; return OK;
}
int cuGraphExecDestroy(Queue *executable) { return cuGraphDestroy(executable); }

/* The card and its primary context */
static int told(const char *name, int usual) { const char *text = getenv(name); return text ? atoi(text) : usual; }
static int card_count(void) { return told("LIBCUDA_DOUBLE_CARDS", 1); }
int cuInit(unsigned flags) { BEGIN; is_initialised = 1; return card_count() ? OK : NO_DEVICE; }
int cuDriverGetVersion(int *version) { *version = told("LIBCUDA_DOUBLE_CUDA", 13000); return OK; }
int cuDeviceGetCount(int *count) { BEGIN; *count = card_count(); return is_initialised ? OK : NOT_INITIALIZED; }
int cuDeviceGet(int *device, int index) { BEGIN; *device = 0; return index ? INVALID_DEVICE : OK; }
int cuDeviceGetName(char *name, int bytes, int device) { BEGIN; snprintf(name, bytes, "Double of a card"); return OK; }
int cuDeviceGetPCIBusId(char *id, int bytes, int device) { BEGIN; snprintf(id, bytes, "0000:01:00.0"); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { BEGIN; *bytes = CARD_BYTES; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    BEGIN; *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 0; return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { BEGIN; *context = (void *)CONTEXT; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { return OK; }
int cuCtxPushCurrent_v2(void *context) { depth++; return OK; }
int cuCtxPopCurrent_v2(void **context)
{
    if (!depth) return INVALID_CONTEXT; depth--; *context = (void *)CONTEXT; return OK;
}
int cuCtxDetach(void *context) { return OK; }
int cuCtxGetDevice(int *device) { *device = 0; return depth ? OK : INVALID_CONTEXT; }
int cuGetErrorName(int code, const char **name) { *name = code_name(code); return OK; }
int cuGetErrorString(int code, const char **text) { *text = code_name(code); return OK; }

/* cuda-bindings asks for each function by name, without the suffix of its version. */
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    char versioned[128];
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (!strcmp(name, "cuGraphInstantiate")) name = "cuGraphInstantiateWithFlags"; /* since CUDA 12 */
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    *function = dlsym(self, versioned);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = !*function;
    return *function ? OK : NOT_FOUND;
}

/* What a test asks */
long double_count(const char *what)
{
    const struct { const char *what; long count; } counts[] = {
        {"device", devices}, {"pinned", pinned}, {"streams", streams}, {"events", events}, {"graphs", graphs},
        {"launches", launches},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) if (!strcmp(counts[i].what, what)) return counts[i].count;
    return -1;
}
