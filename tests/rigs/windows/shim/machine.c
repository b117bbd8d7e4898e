/* The emulated physical machine: one table in shared memory, used by every process that joined
 * under the same name. It says which partitions run, who listens where, and who is calling.
 *
 * Processes end without saying goodbye, so each entry names its process, and an entry whose process
 * is gone counts as free. A Wine process id is used again quickly; the start time tells them apart.
 */
#include "hvshim.h"
#include <stdio.h>

const GUID VM_WILDCARD = {0};
const GUID VM_BROADCAST = {0xffffffff, 0xffff, 0xffff,
                           {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
const GUID VM_CHILDREN = {0x90db8b89, 0x0d35, 0x4f79,
                          {0x8c, 0xe9, 0x49, 0xea, 0x0a, 0xc8, 0xb7, 0xcd}};
const GUID VM_LOOPBACK = {0xe0e16197, 0xdd56, 0x4a10,
                          {0x91, 0x95, 0x5e, 0xe7, 0xa1, 0x55, 0xa8, 0x38}};
const GUID VM_PARENT = {0xa42e7cda, 0xd03f, 0x480c,
                        {0x9c, 0xc2, 0xa4, 0xde, 0x20, 0xab, 0xb8, 0x78}};

/* Our own name for the host's partition. It never leaves this file. */
static const GUID HOST = {0x484f5354, 0, 0, {0, 0, 0, 0, 0, 0, 0, 1}};

#define SERVICE_KEY                                                                               \
    "SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion\\Virtualization\\GuestCommunicationServices"

typedef struct {
    DWORD id; /* 0: the entry was never used, or was given back */
    FILETIME started;
} process;

typedef struct {
    process process;
    GUID partition;
} member;

typedef struct {
    process process;
    SOCKET socket;
    GUID partition;
    hv_address address;
    USHORT tcp_port;
} listener;

typedef struct {
    GUID partition;
    GUID service;
    USHORT client_port;
    USHORT listener_port;
    DWORD number;
} call;

/* Sizes: far more than a test-suite starts. Calls are a ring; an entry is read at once by accept. */
#define MEMBERS 512
#define LISTENERS 1024
#define CALLS 4096

typedef struct {
    member members[MEMBERS];
    listener listeners[LISTENERS];
    call calls[CALLS];
    DWORD calls_made;
} table;

static table *shared;
static HANDLE mutex;
static process myself;
static GUID my_partition;
static bool registration_required;

/* A process that was killed while it held the mutex abandons it; the wait then succeeds as well. */
static void lock(void) { WaitForSingleObject(mutex, INFINITE); }
static void unlock(void) { ReleaseMutex(mutex); }

static bool is_host(const GUID *partition) { return same(partition, &HOST); }

static bool start_time(HANDLE handle, FILETIME *started)
{
    FILETIME ended, kernel, user;
    return GetProcessTimes(handle, started, &ended, &kernel, &user);
}

static bool alive(const process *entry)
{
    if (!entry->id)
        return false;
    HANDLE handle = OpenProcess(SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, FALSE, entry->id);
    if (!handle)
        return false;
    FILETIME started;
    bool running = WaitForSingleObject(handle, 0) == WAIT_TIMEOUT
        && start_time(handle, &started)
        && CompareFileTime(&started, &entry->started) == 0;
    CloseHandle(handle);
    return running;
}

static bool is_mine(const process *entry)
{
    return entry->id == myself.id && CompareFileTime(&entry->started, &myself.started) == 0;
}

static bool enter_partition(void)
{
    bool entered = false;
    lock();
    for (int i = 0; i < MEMBERS && !entered; i++) {
        member *entry = &shared->members[i];
        if (!alive(&entry->process)) {
            entry->process = myself;
            entry->partition = my_partition;
            entered = true;
        }
    }
    unlock();
    return entered;
}

bool machine_join(const char *name, const GUID *partition, bool require_registration)
{
    char object[200];
    myself.id = GetCurrentProcessId();
    my_partition = partition ? *partition : HOST;
    registration_required = require_registration;

    snprintf(object, sizeof object, "Local\\hvshim-mutex-%s", name);
    mutex = CreateMutexA(NULL, FALSE, object);
    snprintf(object, sizeof object, "Local\\hvshim-table-%s", name);
    HANDLE section = CreateFileMappingA(
        INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE, 0, sizeof(table), object);
    if (!mutex || !section || !start_time(GetCurrentProcess(), &myself.started))
        return false;
    shared = MapViewOfFile(section, FILE_MAP_ALL_ACCESS, 0, 0, sizeof(table));
    return shared && enter_partition();
}

int machine_publish(SOCKET socket, const hv_address *address, USHORT tcp_port)
{
    listener *vacant = NULL;
    bool taken = false;
    lock();
    for (int i = 0; i < LISTENERS && !taken; i++) {
        listener *entry = &shared->listeners[i];
        if (!alive(&entry->process)) {
            if (!vacant)
                vacant = entry;
            continue;
        }
        taken = same(&entry->partition, &my_partition)
            && same(&entry->address.vm, &address->vm)
            && same(&entry->address.service, &address->service);
    }
    if (!taken && vacant) {
        vacant->process = myself;
        vacant->socket = socket;
        vacant->partition = my_partition;
        vacant->address = *address;
        vacant->tcp_port = tcp_port;
    }
    unlock();
    if (taken)
        return WSAEADDRINUSE;
    return vacant ? 0 : WSAENOBUFS;
}

void machine_withdraw(SOCKET socket)
{
    lock();
    for (int i = 0; i < LISTENERS; i++) {
        listener *entry = &shared->listeners[i];
        if (entry->socket == socket && is_mine(&entry->process))
            entry->process.id = 0;
    }
    unlock();
}

static bool partition_runs(const GUID *partition)
{
    bool runs = is_host(partition); /* there is always a host, even if no process of it joined */
    lock();
    for (int i = 0; i < MEMBERS && !runs; i++) {
        member *entry = &shared->members[i];
        runs = same(&entry->partition, partition) && alive(&entry->process);
    }
    unlock();
    return runs;
}

/* Under which VM id does partition `by` see partition `who`? */
static GUID seen_by(const GUID *by, const GUID *who)
{
    if (same(who, by))
        return VM_LOOPBACK;
    return is_host(who) ? VM_PARENT : *who;
}

/* Does a listener in partition `by` that is bound to `bound_vm` take calls from `caller`? */
static bool admits(const GUID *by, const GUID *bound_vm, const GUID *caller)
{
    if (same(bound_vm, &VM_WILDCARD))
        return true;
    if (same(bound_vm, &VM_CHILDREN))
        return is_host(by) && !is_host(caller);
    GUID name = seen_by(by, caller);
    return same(bound_vm, &name);
}

static int find_partition(const GUID *vm, GUID *partition)
{
    if (same(vm, &VM_WILDCARD) || same(vm, &VM_CHILDREN) || same(vm, &VM_BROADCAST))
        return WSAEADDRNOTAVAIL;
    if (same(vm, &VM_LOOPBACK)) {
        *partition = my_partition;
        return 0;
    }
    if (same(vm, &VM_PARENT)) {
        *partition = HOST;
        return is_host(&my_partition) ? WSAEADDRNOTAVAIL : 0;
    }
    *partition = *vm;
    if (!is_host(&my_partition) && !same(vm, &my_partition))
        return WSAENETUNREACH; /* from guest to guest there is no way */
    return partition_runs(vm) ? 0 : WSAEADDRNOTAVAIL;
}

static bool registered(const GUID *service)
{
    char key[300];
    const BYTE *tail = service->Data4;
    snprintf(key, sizeof key, "%s\\%08lx-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x", SERVICE_KEY,
             service->Data1, service->Data2, service->Data3, tail[0], tail[1], tail[2], tail[3],
             tail[4], tail[5], tail[6], tail[7]);
    HKEY handle;
    if (RegOpenKeyExA(HKEY_LOCAL_MACHINE, key, 0, KEY_READ | KEY_WOW64_64KEY, &handle))
        return false;
    RegCloseKey(handle);
    return true;
}

int machine_resolve(const hv_address *target, USHORT *tcp_port)
{
    GUID partition;
    int error = find_partition(&target->vm, &partition);
    if (error)
        return error;
    bool from_guest_to_host = is_host(&partition) && !is_host(&my_partition);
    if (from_guest_to_host && registration_required && !registered(&target->service))
        return WSAECONNREFUSED;

    *tcp_port = 0;
    lock();
    for (int i = 0; i < LISTENERS && !*tcp_port; i++) {
        const listener *entry = &shared->listeners[i];
        if (same(&entry->partition, &partition)
            && same(&entry->address.service, &target->service)
            && admits(&partition, &entry->address.vm, &my_partition)
            && alive(&entry->process))
            *tcp_port = entry->tcp_port;
    }
    unlock();
    return *tcp_port ? 0 : WSAECONNREFUSED;
}

void machine_announce(USHORT client_port, USHORT listener_port, const GUID *client_service)
{
    lock();
    call *entry = &shared->calls[shared->calls_made % CALLS];
    entry->number = ++shared->calls_made;
    entry->partition = my_partition;
    entry->service = *client_service;
    entry->client_port = client_port;
    entry->listener_port = listener_port;
    unlock();
}

bool machine_who_calls(USHORT client_port, USHORT listener_port, hv_address *caller)
{
    /* A TCP port is used again sooner or later; the newest announcement is the right one. */
    const call *newest = NULL;
    lock();
    for (int i = 0; i < CALLS; i++) {
        const call *entry = &shared->calls[i];
        bool matches = entry->number && entry->client_port == client_port
            && entry->listener_port == listener_port;
        if (matches && (!newest || entry->number > newest->number))
            newest = entry;
    }
    if (newest) {
        caller->vm = seen_by(&my_partition, &newest->partition);
        caller->service = newest->service;
    }
    unlock();
    return newest != NULL;
}
