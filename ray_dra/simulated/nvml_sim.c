/* A libnvidia-ml.so.1 that answers from two text files, so that pynvml, and whatever else loads NVML,
 * sees a simulated machine. Written from NVML's public interface. machine.py writes the machine's file
 * and documents its lines; MIG's state, beside it, is written here, too (mig.py has its lines). Both are
 * read again whenever they change, which is how faults arrive.
 * RAY_DRA_SIMULATED_NVML names the machine's file; without it, a library in a driver's root (driver_root.py) knows
 * its own. RAY_DRA_SIMULATED_VISIBLE, where set, names a folder with one entry for each device that this
 * container was given, by UUID; other devices are not there. In a container that NVIDIA's driver filled, the
 * device nodes say so instead (RAY_DRA_SIMULATED_DEV: where they are), and the machine is mounted at /machine. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
       TIMEOUT, GPU_IS_LOST = 15, RESET_REQUIRED, IN_USE = 19, INSUFFICIENT_RESOURCES = 23, VERSION_MISMATCH = 25, UNKNOWN = 999 };
enum { GPUS = 32, LINKS = 36, MIGS = 8, XIDS = 64, PROFILES = 16, PLACES = 8, COMPUTE_SLICES = 7, GI_PROFILES = 17, CI_PROFILES = 9, AMPERE = 7 };

typedef struct { int active, remote_type; unsigned domain, bus, device; } Link;
/* One GPU instance and the compute instance in it; no uuid: it has none yet. */
typedef struct { unsigned gi, ci, profile, start, size; char uuid[96]; } Mig;
typedef struct { char name[40]; int index; unsigned id, slices, most, sm, copy, decoder, encoder, jpeg, ofa, memory_mb, size; int places; unsigned place[PLACES]; } Profile;
typedef struct {
    int kind; /* 1: GPU, 2: MIG device; handles point here */
    unsigned minor_number;
    int index, lost, numa, mig_mode, mig_pending, mig_count, links;
    unsigned domain, bus, device, pci_id, recovery;
    unsigned long long memory, used;
    int major, minor;
    char uuid[96], name[96], serial[20];
    int fabric; /* 0: not supported */
    unsigned state, status, clique, health_mask, health_summary;
    unsigned char cluster[16];
    unsigned slot, tray, host, module;
    int platform;
    unsigned module_id, compute_mode; /* module_id 0: it has none */
    unsigned corrected, uncorrected, pending, failure;
    Link link[LINKS];
    Mig mig[MIGS];
    int ancestor[GPUS];
} Gpu;
typedef struct { int kind; int gpu, at; } MigHandle;
typedef struct { long sequence; int gpu; unsigned xid, gi, ci; } Xid;
typedef struct { char driver[80]; int gpus, hang, init, cuda, architecture, brand, addressing; double create, destroy; int in_use_count; char in_use[MIGS][96]; Gpu gpu[GPUS]; int xids; Xid xid[XIDS]; int profiles; Profile profile[PROFILES]; } Machine;
typedef struct { long seen; unsigned long long registered, lost; } EventSet;

static Machine machine;
static Gpu handle[GPUS];            /* stable addresses: a handle is an index in here */
static MigHandle mig_handle[GPUS][MIGS]; /* by the GPU instance's id, as the two below */
static char gi_handle[GPUS][MIGS], ci_handle[GPUS][MIGS];
typedef struct { struct timespec time; ino_t inode; } Seen;
static Seen loaded, loaded_mig;
static int started;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void parse(FILE *file, Machine *m) {
    char line[512], word[32];
    memset(m, 0, sizeof *m);
    while (fgets(line, sizeof line, file)) {
        int i = 0, at = 0, j = 0;
        if (sscanf(line, "%31s%n", word, &at) != 1) continue;
        const char *rest = line + at;
        if (!strcmp(word, "driver")) sscanf(rest, "%79s", m->driver);
        else if (!strcmp(word, "hang")) sscanf(rest, "%d", &m->hang);
        else if (!strcmp(word, "init")) sscanf(rest, "%d", &m->init);
        else if (!strcmp(word, "product")) sscanf(rest, "%d %d %d %d", &m->cuda, &m->architecture, &m->brand, &m->addressing);
        else if (!strcmp(word, "seconds")) sscanf(rest, "%lf %lf", &m->create, &m->destroy);
        else if (!strcmp(word, "in_use") && m->in_use_count < MIGS) sscanf(rest, "%95s", m->in_use[m->in_use_count++]);
        else if (!strcmp(word, "xid") && m->xids < XIDS) {
            Xid *x = &m->xid[m->xids++];
            x->gi = x->ci = 0xFFFFFFFF;
            sscanf(rest, "%ld %d %u %u %u", &x->sequence, &x->gpu, &x->xid, &x->gi, &x->ci);
        } else if (!strcmp(word, "profile") && m->profiles < PROFILES) {
            Profile *p = &m->profile[m->profiles++];
            sscanf(rest, "%39s %d %u %u %u %u %u %u %u %u %u %u %u%n", p->name, &p->index, &p->id, &p->slices, &p->most, &p->sm, &p->copy,
                   &p->decoder, &p->encoder, &p->jpeg, &p->ofa, &p->memory_mb, &p->size, &at);
            for (rest += at; p->places < PLACES && sscanf(rest, "%u%n", &p->place[p->places], &at) == 1; rest += at) p->places++;
        } else if (sscanf(rest, "%d", &i) == 1 && i >= 0 && i < GPUS) {
            Gpu *g = &m->gpu[i];
            if (!strcmp(word, "gpu")) {
                if (i >= m->gpus) m->gpus = i + 1;
                g->index = i, g->minor_number = (unsigned)i;
                sscanf(rest, "%*d %95s %x:%x:%x %x %d %llu %llu %d %u", g->uuid, &g->domain, &g->bus, &g->device,
                       &g->pci_id, &g->numa, &g->memory, &g->used, &g->lost, &g->recovery);
            } else if (!strcmp(word, "name")) {
                sscanf(rest, "%*d %95[^\n]", g->name);
            } else if (!strcmp(word, "settings")) {
                sscanf(rest, "%*d %u %u", &g->module_id, &g->compute_mode);
            } else if (!strcmp(word, "capability")) {
                sscanf(rest, "%*d %d.%d", &g->major, &g->minor);
            } else if (!strcmp(word, "fabric")) {
                char hex[33] = "";
                g->fabric = 1;
                sscanf(rest, "%*d %u %u %u %32s %x %u", &g->state, &g->status, &g->clique, hex, &g->health_mask,
                       &g->health_summary);
                for (int b = 0; b < 16; b++) { unsigned v = 0; sscanf(hex + 2 * b, "%2x", &v); g->cluster[b] = (unsigned char)v; }
            } else if (!strcmp(word, "platform")) {
                g->platform = 1;
                sscanf(rest, "%*d %19s %u %u %u %u", g->serial, &g->slot, &g->tray, &g->host, &g->module);
                if (!strcmp(g->serial, "-")) g->serial[0] = 0;
            } else if (!strcmp(word, "link") && sscanf(rest, "%*d %d", &j) == 1 && j >= 0 && j < LINKS) {
                Link *l = &g->link[j];
                if (j >= g->links) g->links = j + 1;
                sscanf(rest, "%*d %*d %d %d %x:%x:%x", &l->active, &l->remote_type, &l->domain, &l->bus, &l->device);
            } else if (!strcmp(word, "ancestor") && sscanf(rest, "%*d %d", &j) == 1 && j >= 0 && j < GPUS) {
                sscanf(rest, "%*d %*d %d", &g->ancestor[j]);
            } else if (!strcmp(word, "rows")) {
                sscanf(rest, "%*d %u %u %u %u", &g->corrected, &g->uncorrected, &g->pending, &g->failure);
            }
        }
    }
}

static Mig *instance(Gpu *g, unsigned gi) {
    for (int k = 0; k < g->mig_count; k++) if (g->mig[k].gi == gi) return &g->mig[k];
    return NULL;
}
static int by_place(const void *a, const void *b) { return (int)((const Mig *)a)->start - (int)((const Mig *)b)->start; }

/* The file beside the machine's: `mode GPU NOW PENDING`, `gi GPU ID PROFILE START SIZE`, `ci GPU GI ID UUID`. */
static void parse_mig(FILE *file, Machine *m) {
    char line[512], word[32];
    while (fgets(line, sizeof line, file)) {
        int i = 0, at = 0;
        if (sscanf(line, "%31s %d%n", word, &i, &at) != 2 || i < 0 || i >= GPUS) continue;
        Gpu *g = &m->gpu[i];
        Mig made = {0};
        if (!strcmp(word, "mode")) sscanf(line + at, "%d %d", &g->mig_mode, &g->mig_pending);
        else if (!strcmp(word, "gi") && g->mig_count < MIGS) {
            sscanf(line + at, "%u %u %u %u", &made.gi, &made.profile, &made.start, &made.size);
            g->mig[g->mig_count++] = made;
        } else if (!strcmp(word, "ci") && sscanf(line + at, "%u %u %95s", &made.gi, &made.ci, made.uuid) == 3) {
            Mig *p = instance(g, made.gi);
            if (p) { p->ci = made.ci; strcpy(p->uuid, made.uuid); }
        }
    }
    for (int i = 0; i < GPUS; i++) qsort(m->gpu[i].mig, (size_t)m->gpu[i].mig_count, sizeof(Mig), by_place);
}

static int given(const char *folder, const char *uuid) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, uuid);
    return access(path, F_OK) == 0;
}

/* The same by device nodes: a part by its GPU instance's capability, a GPU in MIG mode only for its parts. */
static int node_of_part(const char *dev, const Gpu *g, const Mig *part) {
    char name[64];
    snprintf(name, sizeof name, "nvidia-caps/nvidia-cap%u", 3 + g->minor_number * 135 + part->gi * 9);
    return given(dev, name);
}
static int node_of_gpu(const char *dev, const Gpu *g) {
    char name[32];
    snprintf(name, sizeof name, "nvidia%u", g->minor_number);
    return !g->mig_mode && given(dev, name);
}

/* Leave only what the container was given, numbered from 0. A GPU is also there for its partitions. */
static void keep_given(Machine *m, const char *folder, const char *dev) {
    int kept[GPUS], new_index[GPUS], n = 0;
    for (int i = 0; i < m->gpus; i++) {
        Gpu *g = &m->gpu[i];
        int whole = folder ? given(folder, g->uuid) : node_of_gpu(dev, g), parts = 0;
        for (int k = 0; k < g->mig_count && !whole; k++) {
            Mig *part = &g->mig[k];
            if (part->uuid[0] && (folder ? given(folder, part->uuid) : node_of_part(dev, g, part))) g->mig[parts++] = *part;
        }
        if (!whole) g->mig_count = parts;
        new_index[i] = whole || parts ? n : -1;
        if (whole || parts) kept[n++] = i;
    }
    for (int i = 0; i < n; i++) { /* kept[i] >= i, so that nothing is overwritten before it is moved */
        Gpu moved = m->gpu[kept[i]];
        moved.index = i;
        for (int j = 0; j < n; j++) moved.ancestor[j] = m->gpu[kept[i]].ancestor[kept[j]];
        m->gpu[i] = moved;
    }
    m->gpus = n;
    int xids = 0;
    for (int i = 0; i < m->xids; i++) {
        Xid x = m->xid[i];
        if (x.gpu < 0 || x.gpu >= GPUS || new_index[x.gpu] < 0) continue;
        x.gpu = new_index[x.gpu];
        m->xid[xids++] = x;
    }
    m->xids = xids;
}

static Seen seen(const char *path) {
    struct stat now;
    Seen none = {0};
    if (stat(path, &now)) return none;
    return (Seen){now.st_mtim, now.st_ino};
}
static int same(Seen a, Seen b) { return a.inode == b.inode && a.time.tv_sec == b.time.tv_sec && a.time.tv_nsec == b.time.tv_nsec; }

/* A file in the machine's folder. */
static const char *beside(const char *path, const char *name, char *to, size_t size) {
    const char *slash = strrchr(path, '/');
    snprintf(to, size, "%.*s%s", slash ? (int)(slash - path + 1) : 0, path, name);
    return to;
}

/* `machine/machine.txt` in the root whose usr/lib64 has this library. */
static const char *in_root(void) {
    static char found[PATH_MAX + 32];
    Dl_info here;
    char library[PATH_MAX], *end;
    if (found[0]) return found;
    if (!dladdr(&machine, &here) || !here.dli_fname || !realpath(here.dli_fname, library)) return NULL;
    if (!(end = strstr(library, "/usr/lib64/"))) return NULL;
    snprintf(found, sizeof found, "%.*s/machine/machine.txt", (int)(end - library), library);
    return found;
}
static const char *machine_path(void) {
    const char *told = getenv("RAY_DRA_SIMULATED_NVML");
    return told ? told : in_root();
}
/* The folder of device nodes that limits the view: a container's, whose root has the library and the machine. */
static const char *nodes_limit(const char *machine_file) {
    const char *told = getenv("RAY_DRA_SIMULATED_DEV");
    return told ? told : !strcmp(machine_file, "/machine/machine.txt") ? "/dev" : NULL;
}

static int load(void) {
    static Machine fresh;
    char mig[PATH_MAX + 32];
    const char *path = machine_path();
    Seen now, now_mig;
    if (!path || !(now = seen(path)).inode) return DRIVER_NOT_LOADED;
    now_mig = seen(beside(path, "mig.txt", mig, sizeof mig));
    pthread_mutex_lock(&lock);
    if (!same(now, loaded) || !same(now_mig, loaded_mig)) {
        FILE *file = fopen(path, "r");
        if (!file) { pthread_mutex_unlock(&lock); return DRIVER_NOT_LOADED; }
        parse(file, &fresh);
        fclose(file);
        if ((file = fopen(mig, "r"))) { parse_mig(file, &fresh); fclose(file); }
        const char *folder = getenv("RAY_DRA_SIMULATED_VISIBLE"), *dev = nodes_limit(path);
        if (folder || dev) keep_given(&fresh, folder, dev);
        machine = fresh;
        loaded = now, loaded_mig = now_mig;
    }
    pthread_mutex_unlock(&lock);
    while (machine.hang) { /* a driver call that hangs ends only when the fault is lifted, or with the process */
        usleep(50000);
        if (seen(path).inode != now.inode) break;
    }
    return OK;
}

/* Every call begins so: started, file fresh. */
#define BEGIN() do { if (!started) return UNINITIALIZED; int r_ = load(); if (r_) return r_; } while (0)
#define DEVICE(g, h) Gpu *g; do { BEGIN(); g = device_of(h); if (!g) return INVALID_ARGUMENT; if (g->lost) return GPU_IS_LOST; } while (0)

static Gpu *device_of(void *h) {
    Gpu *g = h;
    if (g < handle || g >= handle + GPUS) return NULL;
    int i = (int)(g - handle);
    return i < machine.gpus ? &machine.gpu[i] : NULL;
}
static Mig *mig_of(void *h, Gpu **parent) {
    MigHandle *m = h;
    if (m < &mig_handle[0][0] || m > &mig_handle[GPUS - 1][MIGS - 1]) return NULL;
    int at = (int)(m - &mig_handle[0][0]);
    Gpu *g = &machine.gpu[at / MIGS];
    Mig *found = instance(g, (unsigned)(at % MIGS));
    if (parent) *parent = g;
    return found && found->uuid[0] ? found : NULL;
}
/* The place of a MIG device, among those that can be used. */
static void *mig_handle_of(Gpu *g, Mig *m) { return &mig_handle[g->index][m->gi]; }
static Profile *profile_of(unsigned id) {
    for (int i = 0; i < machine.profiles; i++) if (machine.profile[i].id == id) return &machine.profile[i];
    return NULL;
}
static int text(char *to, unsigned size, const char *from) {
    if (strlen(from) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return OK;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; int r = load(); if (r) return r; if (machine.init) return machine.init; started++; return OK; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!started) return UNINITIALIZED; started--; return OK; }
const char *nvmlErrorString(int code) {
    static const char *said[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions", "Already Initialized",
        "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded", "Timeout",
        "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM", "GPU is lost",
        "GPU requires reset", "GPU access blocked by the operating system", "Driver/library version mismatch",
        "In use by another client", "Insufficient Memory", "No data", "vGPU ECC not supported", "Insufficient Resources",
        "Invalid Frequency", "Argument version mismatch", "Requested functionality has been deprecated",
        "System is not in ready state", "No supported GPUs were found",
        "Resource not in correct state to perform requested operation", "Reset type is not supported for given device" };
    return code >= 0 && code < (int)(sizeof said / sizeof *said) ? said[code] : "Unknown Error";
}
int nvmlSystemGetDriverVersion(char *version, unsigned size) { BEGIN(); return text(version, size, machine.driver); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { BEGIN(); *version = machine.cuda; return OK; }
int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }
int nvmlDeviceGetCount_v2(unsigned *count) { BEGIN(); *count = (unsigned)machine.gpus; return OK; }
int nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) {
    BEGIN();
    if (i >= (unsigned)machine.gpus) return INVALID_ARGUMENT;
    *h = &handle[i];
    return machine.gpu[i].lost ? GPU_IS_LOST : OK;
}
int nvmlDeviceGetHandleByIndex(unsigned i, void **h) { return nvmlDeviceGetHandleByIndex_v2(i, h); }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **h) {
    BEGIN();
    for (int i = 0; i < machine.gpus; i++) {
        if (!strcmp(machine.gpu[i].uuid, uuid)) { *h = &handle[i]; return machine.gpu[i].lost ? GPU_IS_LOST : OK; }
        for (int k = 0; k < machine.gpu[i].mig_count; k++)
            if (!strcmp(machine.gpu[i].mig[k].uuid, uuid)) { *h = mig_handle_of(&machine.gpu[i], &machine.gpu[i].mig[k]); return OK; }
    }
    return NOT_FOUND;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **h) {
    unsigned domain, bus, device;
    BEGIN();
    if (sscanf(bus_id, "%x:%x:%x", &domain, &bus, &device) != 3) return INVALID_ARGUMENT;
    for (int i = 0; i < machine.gpus; i++) {
        Gpu *g = &machine.gpu[i];
        if (g->domain == domain && g->bus == bus && g->device == device) { *h = &handle[i]; return g->lost ? GPU_IS_LOST : OK; }
    }
    return NOT_FOUND;
}
int nvmlDeviceGetIndex(void *h, unsigned *i) { DEVICE(g, h); *i = (unsigned)g->index; return OK; }
int nvmlDeviceGetMinorNumber(void *h, unsigned *minor) { DEVICE(g, h); *minor = g->minor_number; return OK; }
int nvmlDeviceGetArchitecture(void *h, unsigned *architecture) { DEVICE(g, h); (void)g; *architecture = (unsigned)machine.architecture; return OK; }
int nvmlDeviceGetBrand(void *h, unsigned *brand) { DEVICE(g, h); (void)g; *brand = (unsigned)machine.brand; return OK; }
typedef struct { unsigned version, value; } Addressing;
int nvmlDeviceGetAddressingMode(void *h, Addressing *mode) {
    DEVICE(g, h);
    (void)g;
    if (machine.addressing < 0) return NOT_SUPPORTED;
    mode->value = (unsigned)machine.addressing;
    return OK;
}
int nvmlDeviceGetModuleId(void *h, unsigned *module) { DEVICE(g, h); if (!g->module_id) return NOT_SUPPORTED; *module = g->module_id; return OK; }
int nvmlDeviceGetVirtualizationMode(void *h, unsigned *mode) { DEVICE(g, h); (void)g; *mode = 0; return OK; } /* none */
int nvmlDeviceGetPersistenceMode(void *h, unsigned *mode) { DEVICE(g, h); (void)g; *mode = 1; return OK; }
int nvmlDeviceSetPersistenceMode(void *h, unsigned mode) { DEVICE(g, h); (void)g; return mode <= 1 ? OK : INVALID_ARGUMENT; }
int nvmlDeviceGetComputeMode(void *h, unsigned *mode) { DEVICE(g, h); *mode = g->compute_mode; return OK; }
int nvmlDeviceGetName(void *h, char *name, unsigned size) { DEVICE(g, h); return text(name, size, g->name); }
int nvmlDeviceGetUUID(void *h, char *uuid, unsigned size) {
    BEGIN();
    Mig *m = mig_of(h, NULL);
    if (m) return text(uuid, size, m->uuid);
    DEVICE(g, h);
    return text(uuid, size, g->uuid);
}
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
static void pci(Pci *to, unsigned domain, unsigned bus, unsigned device, unsigned id) {
    memset(to, 0, sizeof *to);
    to->domain = domain, to->bus = bus, to->device = device, to->id = id;
    snprintf(to->legacy, sizeof to->legacy, "%04X:%02X:%02X.0", domain & 0xFFFF, bus & 0xFF, device & 0xFF);
    snprintf(to->bus_id, sizeof to->bus_id, "%08X:%02X:%02X.0", domain, bus & 0xFF, device & 0xFF);
}
int nvmlDeviceGetPciInfo_v3(void *h, Pci *to) { DEVICE(g, h); pci(to, g->domain, g->bus, g->device, g->pci_id); return OK; }
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) { DEVICE(g, h); *major = g->major, *minor = g->minor; return OK; }
int nvmlDeviceGetMemoryInfo(void *h, Memory *to) { DEVICE(g, h); to->total = g->memory; to->used = g->used; to->free = g->memory - g->used; return OK; }
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
int nvmlDeviceGetMemoryInfo_v2(void *h, MemoryV2 *to) { DEVICE(g, h); to->total = g->memory; to->reserved = 0; to->used = g->used; to->free = g->memory - g->used; return OK; }
int nvmlDeviceGetNumaNodeId(void *h, unsigned *node) { DEVICE(g, h); if (g->numa < 0) return NOT_SUPPORTED; *node = (unsigned)g->numa; return OK; }
int nvmlDeviceGetTopologyCommonAncestor(void *a, void *b, int *level) {
    DEVICE(g, a);
    Gpu *other = device_of(b);
    if (!other) return INVALID_ARGUMENT;
    *level = g->ancestor[other->index];
    return OK;
}
#define LINK(l, h, n) DEVICE(g_, h); if ((n) >= (unsigned)g_->links) return (n) < LINKS ? NOT_SUPPORTED : INVALID_ARGUMENT; Link *l = &g_->link[n]
int nvmlDeviceGetNvLinkState(void *h, unsigned n, int *active) { LINK(l, h, n); *active = l->active; return OK; }
int nvmlDeviceGetNvLinkRemoteDeviceType(void *h, unsigned n, int *type) { LINK(l, h, n); if (l->remote_type < 0) return NOT_SUPPORTED; *type = l->remote_type; return OK; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *h, unsigned n, Pci *to) { LINK(l, h, n); if (l->remote_type < 0) return NOT_SUPPORTED; pci(to, l->domain, l->bus, l->device, 0); return OK; }
int nvmlDeviceGetP2PStatus(void *a, void *b, int capability, int *status) {
    DEVICE(g, a);
    Gpu *other = device_of(b);
    if (!other) return INVALID_ARGUMENT;
    if (capability != 2) { *status = 0; return OK; } /* 2: over NVLink */
    *status = 5;
    for (int i = 0; i < g->links; i++)
        for (int j = 0; j < other->links; j++) {
            Link *p = &g->link[i], *q = &other->link[j];
            if (!p->active || !q->active) continue;
            int same_switch = p->remote_type != 0 && q->remote_type != 0 && p->domain == q->domain && p->bus == q->bus && p->device == q->device;
            int direct = p->remote_type == 0 && p->domain == other->domain && p->bus == other->bus && p->device == other->device;
            if (same_switch || direct) { *status = 0; return OK; }
        }
    return OK;
}
typedef struct { unsigned version; unsigned char cluster[16]; unsigned status, clique; unsigned char state; unsigned health_mask; unsigned char summary; } Fabric;
int nvmlDeviceGetGpuFabricInfoV(void *h, Fabric *to) {
    DEVICE(g, h);
    if (!g->fabric) return NOT_SUPPORTED;
    if (to->version != 0x02000024 && to->version != 0x03000028) return VERSION_MISMATCH;
    memcpy(to->cluster, g->cluster, 16);
    to->status = g->status, to->clique = g->clique, to->state = (unsigned char)g->state, to->health_mask = g->health_mask;
    if (to->version == 0x03000028) to->summary = (unsigned char)g->health_summary;
    return OK;
}
typedef struct { unsigned char cluster[16]; unsigned status, clique; unsigned char state; } FabricV1;
int nvmlDeviceGetGpuFabricInfo(void *h, FabricV1 *to) {
    DEVICE(g, h);
    if (!g->fabric) return NOT_SUPPORTED;
    memcpy(to->cluster, g->cluster, 16);
    to->status = g->status, to->clique = g->clique, to->state = (unsigned char)g->state;
    return OK;
}
typedef struct { unsigned version; unsigned char ib_guid[16], serial[16], slot, tray, host, peer, module; } Platform;
int nvmlDeviceGetPlatformInfo(void *h, Platform *to) {
    DEVICE(g, h);
    if (!g->platform) return NOT_SUPPORTED;
    memset(to->ib_guid, 0, 16);
    memset(to->serial, 0, 16);
    memcpy(to->serial, g->serial, strnlen(g->serial, 16));
    to->slot = (unsigned char)g->slot, to->tray = (unsigned char)g->tray, to->host = (unsigned char)g->host;
    to->peer = 1, to->module = (unsigned char)g->module;
    return OK;
}
typedef struct { unsigned field, scope; int64_t timestamp, latency; unsigned type, result; union { unsigned ui; unsigned long long ull; double d; } value; } Field;
int nvmlDeviceGetFieldValues(void *h, int count, Field *values) {
    DEVICE(g, h);
    for (int i = 0; i < count; i++) {
        values[i].result = values[i].field == 230 ? OK : NOT_SUPPORTED;
        values[i].type = 1;
        values[i].value.ull = 0;
        if (values[i].field == 230) values[i].value.ui = g->recovery;
    }
    return OK;
}
int nvmlDeviceGetRemappedRows(void *h, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failure) {
    DEVICE(g, h);
    *corrected = g->corrected, *uncorrected = g->uncorrected, *pending = g->pending, *failure = g->failure;
    return OK;
}
int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) {
    DEVICE(g, h);
    if (!machine.profiles) return NOT_SUPPORTED;
    *current = (unsigned)g->mig_mode, *pending = (unsigned)g->mig_pending;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *count) { DEVICE(g, h); *count = machine.profiles && g->mig_mode ? 7 : 0; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned i, void **mig) {
    DEVICE(g, h);
    for (int k = 0; k < g->mig_count; k++)
        if (g->mig[k].uuid[0] && !i--) { *mig = mig_handle_of(g, &g->mig[k]); return OK; }
    return NOT_FOUND;
}
int nvmlDeviceIsMigDeviceHandle(void *h, unsigned *is) { BEGIN(); *is = mig_of(h, NULL) != NULL; return OK; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *h, void **parent) {
    BEGIN();
    Gpu *g;
    if (!mig_of(h, &g)) return INVALID_ARGUMENT;
    *parent = &handle[g->index];
    return OK;
}
int nvmlDeviceGetGpuInstanceId(void *h, unsigned *id) { BEGIN(); Mig *m = mig_of(h, NULL); if (!m) return INVALID_ARGUMENT; *id = m->gi; return OK; }
int nvmlDeviceGetComputeInstanceId(void *h, unsigned *id) { BEGIN(); Mig *m = mig_of(h, NULL); if (!m) return INVALID_ARGUMENT; *id = m->ci; return OK; }
typedef struct { unsigned sm, copy, decoder, encoder, jpeg, ofa, gi_slices, ci_slices; unsigned long long memory_mb; } Attributes;
int nvmlDeviceGetAttributes_v2(void *h, Attributes *to) {
    BEGIN();
    Mig *m = mig_of(h, NULL);
    Profile *p = m ? profile_of(m->profile) : NULL;
    if (!p) return NOT_SUPPORTED;
    *to = (Attributes){p->sm, p->copy, p->decoder, p->encoder, p->jpeg, p->ofa, p->slices, p->slices, p->memory_mb};
    return OK;
}

/* -- MIG: profiles, and parts made and destroyed. The state's file is written in one step, under a lock. */

typedef struct { unsigned id, p2p, slices, most, sm, copy, decoder, encoder, jpeg, ofa; unsigned long long memory_mb; } GiProfile;
typedef struct { unsigned start, size; } Placement;
typedef struct { void *device; unsigned id, profile; Placement placement; } GiInfo;
typedef struct { unsigned id, slices, most, sm, copy, decoder, encoder, jpeg, ofa; } CiProfile;
typedef struct { void *device, *gi; unsigned id, profile; Placement placement; } CiInfo;
static const unsigned ci_slices[CI_PROFILES] = {1, 2, 3, 4, 7, 8, 6, 1, 7}; /* by NVML's number of the kind */

static int at_handle(void *h, char table[GPUS][MIGS], Gpu **g, Mig **m) {
    char *p = h;
    if (p < &table[0][0] || p > &table[GPUS - 1][MIGS - 1]) return INVALID_ARGUMENT;
    int at = (int)(p - &table[0][0]);
    if (at / MIGS >= machine.gpus) return INVALID_ARGUMENT;
    *g = &machine.gpu[at / MIGS];
    if ((*g)->lost) return GPU_IS_LOST;
    *m = instance(*g, (unsigned)(at % MIGS));
    return *m ? OK : NOT_FOUND;
}
#define INSTANCE(g, m, h, table) Gpu *g; Mig *m; do { BEGIN(); int r_ = at_handle(h, table, &g, &m); if (r_) return r_; } while (0)

static void wait_for(double seconds) { if (seconds > 0) usleep((useconds_t)(seconds * 1e6)); }

/* The lock, with the state as it is now; -1: none may be written here (a container's view leaves out what others have). */
static int begin_change(void) {
    char path[PATH_MAX + 32];
    const char *file = machine_path();
    if (!file || getenv("RAY_DRA_SIMULATED_VISIBLE") || nodes_limit(file)) return -1;
    int fd = open(beside(file, "mig.lock", path, sizeof path), O_RDWR | O_CREAT, 0644);
    if (fd < 0) return -1;
    if (flock(fd, LOCK_EX) || load()) { close(fd); return -1; }
    return fd;
}
static int end_change(int fd, int result) {
    char new[PATH_MAX + 32], path[PATH_MAX + 32];
    const char *file = machine_path();
    FILE *to = result == OK ? fopen(beside(file, "mig.new", new, sizeof new), "w") : NULL;
    if (to) {
        for (int i = 0; i < machine.gpus; i++) {
            Gpu *g = &machine.gpu[i];
            if (g->mig_mode || g->mig_pending) fprintf(to, "mode %d %d %d\n", i, g->mig_mode, g->mig_pending);
            for (int k = 0; k < g->mig_count; k++) {
                Mig *m = &g->mig[k];
                fprintf(to, "gi %d %u %u %u %u\n", i, m->gi, m->profile, m->start, m->size);
                if (m->uuid[0]) fprintf(to, "ci %d %u %u %s\n", i, m->gi, m->ci, m->uuid);
            }
        }
        int bad = fclose(to) || rename(new, beside(file, "mig.txt", path, sizeof path));
        if (bad) result = UNKNOWN;
    } else if (result == OK) result = NO_PERMISSION;
    close(fd);
    return result;
}
#define CHANGE(fd) int fd = begin_change(); if (fd < 0) return NO_PERMISSION

int nvmlDeviceSetMigMode(void *h, unsigned mode, int *activation) {
    DEVICE(g, h);
    if (!machine.profiles) return NOT_SUPPORTED;
    if (mode > 1) return INVALID_ARGUMENT;
    CHANGE(fd);
    *activation = OK;
    if (!mode && g->mig_count) return *activation = end_change(fd, IN_USE);
    g->mig_pending = (int)mode;
    if (machine.architecture > AMPERE) g->mig_mode = (int)mode;
    else if (g->mig_mode != g->mig_pending) *activation = RESET_REQUIRED;
    return end_change(fd, OK);
}
typedef struct { unsigned version, id, p2p, slices, most, sm, copy, decoder, encoder, jpeg, ofa; unsigned long long memory_mb; char name[96]; } GiProfileV2;
static Profile *profile_at(unsigned kind) {
    for (int i = 0; i < machine.profiles; i++) if ((unsigned)machine.profile[i].index == kind) return &machine.profile[i];
    return NULL;
}
int nvmlDeviceGetGpuInstanceProfileInfo(void *h, unsigned kind, GiProfile *to) {
    DEVICE(g, h);
    (void)g;
    Profile *p = profile_at(kind);
    if (!p) return kind >= GI_PROFILES ? INVALID_ARGUMENT : NOT_SUPPORTED;
    *to = (GiProfile){p->id, 0, p->slices, p->most, p->sm, p->copy, p->decoder, p->encoder, p->jpeg, p->ofa, p->memory_mb};
    return OK;
}
static int profile_v2(void *h, Profile *p, GiProfileV2 *to) {
    DEVICE(g, h);
    (void)g;
    if (to->version != 0x02000098) return VERSION_MISMATCH;
    if (!p) return NOT_SUPPORTED;
    *to = (GiProfileV2){to->version, p->id, 0, p->slices, p->most, p->sm, p->copy, p->decoder, p->encoder, p->jpeg, p->ofa, p->memory_mb, ""};
    snprintf(to->name, sizeof to->name, "MIG %s", p->name);
    return OK;
}
int nvmlDeviceGetGpuInstanceProfileInfoV(void *h, unsigned kind, GiProfileV2 *to) {
    BEGIN();
    return kind >= GI_PROFILES ? INVALID_ARGUMENT : profile_v2(h, profile_at(kind), to);
}
int nvmlDeviceGetGpuInstanceProfileInfoByIdV(void *h, unsigned id, GiProfileV2 *to) { BEGIN(); return profile_v2(h, profile_of(id), to); }
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(void *h, unsigned id, Placement *to, unsigned *count) {
    DEVICE(g, h);
    (void)g;
    Profile *p = profile_of(id);
    if (!p) return machine.profiles ? INVALID_ARGUMENT : NOT_SUPPORTED;
    if (to && *count < (unsigned)p->places) return INSUFFICIENT_SIZE;
    *count = (unsigned)p->places;
    for (int i = 0; to && i < p->places; i++) to[i] = (Placement){p->place[i], p->size};
    return OK;
}
static int fits(Gpu *g, Profile *p, unsigned start) {
    unsigned slices = p->slices, media = 0;
    int place = 0;
    for (int i = 0; i < p->places; i++) place |= p->place[i] == start;
    for (int k = 0; k < g->mig_count; k++) {
        Mig *m = &g->mig[k];
        Profile *other = profile_of(m->profile);
        if (start < m->start + m->size && m->start < start + p->size) return 0;
        slices += other ? other->slices : 0;
        media += other && other->most == 1 && other->slices == 1;
    }
    return place && slices <= COMPUTE_SLICES && !(media && p->most == 1 && p->slices == 1);
}
static int create_instance(void *h, unsigned id, const Placement *wanted, void **to) {
    DEVICE(g, h);
    if (!machine.profiles || !g->mig_mode) return NOT_SUPPORTED;
    Profile *p = profile_of(id);
    if (!p || (wanted && wanted->size != p->size)) return INVALID_ARGUMENT;
    CHANGE(fd);
    int at = -1;
    for (int i = 0; i < p->places && at < 0; i++)
        if ((!wanted || wanted->start == p->place[i]) && fits(g, p, p->place[i])) at = i;
    if (at < 0 || g->mig_count == MIGS) return end_change(fd, INSUFFICIENT_RESOURCES);
    Mig made = {.gi = 1, .profile = p->id, .start = p->place[at], .size = p->size};
    while (instance(g, made.gi)) made.gi++;
    wait_for(machine.create);
    g->mig[g->mig_count++] = made;
    *to = &gi_handle[g->index][made.gi];
    return end_change(fd, OK);
}
int nvmlDeviceCreateGpuInstanceWithPlacement(void *h, unsigned id, const Placement *at, void **gi) { return create_instance(h, id, at, gi); }
int nvmlDeviceCreateGpuInstance(void *h, unsigned id, void **gi) { return create_instance(h, id, NULL, gi); }
int nvmlDeviceGetGpuInstanceRemainingCapacity(void *h, unsigned id, unsigned *count) {
    DEVICE(g, h);
    Profile *p = profile_of(id);
    if (!p || !g->mig_mode) return NOT_SUPPORTED;
    *count = 0;
    for (int i = 0; i < p->places; i++) *count += fits(g, p, p->place[i]) != 0;
    if (*count > p->most) *count = p->most;
    return OK;
}
int nvmlDeviceGetGpuInstances(void *h, unsigned id, void **to, unsigned *count) {
    DEVICE(g, h);
    if (!g->mig_mode) return NOT_SUPPORTED;
    *count = 0;
    for (int k = 0; k < g->mig_count; k++) if (g->mig[k].profile == id) to[(*count)++] = &gi_handle[g->index][g->mig[k].gi];
    return OK;
}
int nvmlDeviceGetGpuInstanceById(void *h, unsigned id, void **gi) {
    DEVICE(g, h);
    if (!machine.profiles) return NOT_SUPPORTED;
    if (!instance(g, id)) return NOT_FOUND;
    *gi = &gi_handle[g->index][id];
    return OK;
}
int nvmlGpuInstanceGetInfo(void *h, GiInfo *to) {
    INSTANCE(g, m, h, gi_handle);
    *to = (GiInfo){&handle[g->index], m->gi, m->profile, {m->start, m->size}};
    return OK;
}
int nvmlGpuInstanceDestroy(void *h) {
    INSTANCE(g, m, h, gi_handle);
    unsigned gi = m->gi;
    CHANGE(fd);
    m = instance(g, gi);
    if (!m || m->uuid[0]) return end_change(fd, m ? IN_USE : NOT_FOUND);
    wait_for(machine.destroy);
    *m = g->mig[--g->mig_count];
    return end_change(fd, OK);
}
/* A compute instance fills its GPU instance; smaller ones are not simulated. Since Hopper one of seven slices also comes
 * with NVLink (8), which NVIDIA's DRA driver asks for; on Ampere it cannot make 7g for that. */
static int fills(unsigned kind, Profile *p) {
    return p && (kind <= 4 || (kind == 8 && machine.architecture > AMPERE)) && ci_slices[kind] == p->slices;
}
int nvmlGpuInstanceGetComputeInstanceProfileInfo(void *h, unsigned kind, unsigned engines, CiProfile *to) {
    INSTANCE(g, m, h, gi_handle);
    Profile *p = profile_of(m->profile);
    if (kind >= CI_PROFILES || engines) return INVALID_ARGUMENT;
    if (!fills(kind, p)) return NOT_SUPPORTED;
    *to = (CiProfile){kind, p->slices, 1, p->sm, p->copy, p->decoder, p->encoder, p->jpeg, p->ofa};
    (void)g;
    return OK;
}
static int new_uuid(char *to, size_t size) {
    unsigned char b[16];
    FILE *random = fopen("/dev/urandom", "r");
    size_t got = random ? fread(b, 1, sizeof b, random) : 0;
    if (random) fclose(random);
    if (got != sizeof b) return UNKNOWN;
    b[6] = (b[6] & 0x0F) | 0x40, b[8] = (b[8] & 0x3F) | 0x80;
    snprintf(to, size, "MIG-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4],
             b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return OK;
}
int nvmlGpuInstanceCreateComputeInstance(void *h, unsigned kind, void **ci) {
    INSTANCE(g, m, h, gi_handle);
    Profile *p = profile_of(m->profile);
    if (!fills(kind, p)) return INVALID_ARGUMENT;
    unsigned gi = m->gi;
    CHANGE(fd);
    m = instance(g, gi);
    if (!m || m->uuid[0]) return end_change(fd, m ? INSUFFICIENT_RESOURCES : NOT_FOUND);
    m->ci = 0;
    *ci = &ci_handle[g->index][m->gi];
    return end_change(fd, new_uuid(m->uuid, sizeof m->uuid));
}
int nvmlGpuInstanceGetComputeInstanceById(void *h, unsigned id, void **ci) {
    INSTANCE(g, m, h, gi_handle);
    if (!m->uuid[0] || m->ci != id) return NOT_FOUND;
    *ci = &ci_handle[g->index][m->gi];
    return OK;
}
int nvmlComputeInstanceGetInfo_v2(void *h, CiInfo *to) {
    INSTANCE(g, m, h, ci_handle);
    Profile *p = profile_of(m->profile);
    if (!m->uuid[0] || !p) return NOT_FOUND;
    unsigned kind = 0;
    while (ci_slices[kind] != p->slices) kind++;
    *to = (CiInfo){mig_handle_of(g, m), &gi_handle[g->index][m->gi], m->ci, kind, {0, p->slices}};
    return OK;
}
int nvmlComputeInstanceDestroy(void *h) {
    INSTANCE(g, m, h, ci_handle);
    for (int i = 0; i < machine.in_use_count; i++) if (!strcmp(machine.in_use[i], m->uuid)) return IN_USE;
    unsigned gi = m->gi;
    CHANGE(fd);
    m = instance(g, gi);
    if (!m || !m->uuid[0]) return end_change(fd, NOT_FOUND);
    m->uuid[0] = 0;
    return end_change(fd, OK);
}

int nvmlEventSetCreate(EventSet **set) {
    BEGIN();
    *set = calloc(1, sizeof **set);
    for (int i = 0; i < machine.xids; i++)
        if (machine.xid[i].sequence > (*set)->seen) (*set)->seen = machine.xid[i].sequence; /* only what comes later */
    return OK;
}
int nvmlDeviceGetSupportedEventTypes(void *h, unsigned long long *types) { DEVICE(g, h); (void)g; *types = 0xFF9F; return OK; } /* as an H100's; only XIDs come */
int nvmlDeviceRegisterEvents(void *h, unsigned long long types, EventSet *set) { DEVICE(g, h); if (types & 8) set->registered |= 1ull << g->index; return OK; }
typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } Event;
int nvmlEventSetWait_v2(EventSet *set, Event *to, unsigned timeout_ms) {
    for (unsigned waited = 0;; waited += 20) {
        BEGIN();
        for (int i = 0; i < machine.xids; i++) {
            Xid *x = &machine.xid[i];
            if (x->sequence <= set->seen || !(set->registered >> x->gpu & 1)) continue;
            set->seen = x->sequence;
            memset(to, 0, sizeof *to);
            to->device = &handle[x->gpu], to->type = 8, to->data = x->xid, to->gi = x->gi, to->ci = x->ci;
            return OK;
        }
        unsigned long long lost = 0;
        for (int i = 0; i < machine.gpus; i++) if (machine.gpu[i].lost && set->registered >> i & 1) lost |= 1ull << i;
        unsigned long long newly = lost & ~set->lost;
        set->lost = lost;
        if (newly) return GPU_IS_LOST;
        if (waited >= timeout_ms) return lost ? GPU_IS_LOST : TIMEOUT;
        usleep(20000);
    }
}
int nvmlEventSetFree(EventSet *set) { free(set); return OK; }
