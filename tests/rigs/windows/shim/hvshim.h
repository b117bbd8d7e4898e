/* hvshim: AF_HYPERV for a Winsock that has none, such as Wine's. For tests only.
 *
 * Python's socket calls for family 34 are carried over TCP on 127.0.0.1: SOCKADDR_HV goes in and
 * comes out, the bytes travel through an ordinary socket, and so select, timeouts and overlapped
 * reads and writes are the real thing.
 *
 *   machine.c   the emulated physical machine: who runs, who listens, who is calling whom
 *   sockets.c   what socket(), bind(), connect() ... do for family 34
 *   install.c   puts those functions in place of Winsock's inside one loaded module
 *
 * Which answers are knowledge about Hyper-V and which are assumptions is listed in the README.
 */
#ifndef HVSHIM_H
#define HVSHIM_H

#define WIN32_LEAN_AND_MEAN
#define _WIN32_WINNT 0x0A00
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#include <stdbool.h>
#include <string.h>

#define AF_HYPERV_FAMILY 34
#define HV_PROTOCOL_RAW 1

typedef struct {
    USHORT family;
    USHORT reserved;
    GUID vm;
    GUID service;
} hv_address;

_Static_assert(sizeof(hv_address) == 36, "SOCKADDR_HV has 36 bytes");

/* Names of VMs that depend on who says them. */
extern const GUID VM_WILDCARD, VM_BROADCAST, VM_CHILDREN, VM_LOOPBACK, VM_PARENT;

static inline bool same(const GUID *a, const GUID *b) { return memcmp(a, b, sizeof(GUID)) == 0; }

/* --- machine.c: functions returning int give 0 or a Winsock error code ------------------------ */

/* Join the physical machine of this name; partition NULL means its host. */
bool machine_join(const char *name, const GUID *partition, bool require_registration);

/* From now on, connections to `address` in this process's partition go to `tcp_port`. */
int machine_publish(SOCKET socket, const hv_address *address, USHORT tcp_port);
void machine_withdraw(SOCKET socket);

/* Find the listener that `target` means, as seen from this process's partition. */
int machine_resolve(const hv_address *target, USHORT *tcp_port);

/* The connecting side announces itself; the accepting side asks who is calling. */
void machine_announce(USHORT client_port, USHORT listener_port, const GUID *client_service);
bool machine_who_calls(USHORT client_port, USHORT listener_port, hv_address *caller);

/* --- sockets.c -------------------------------------------------------------------------------- */

typedef struct {
    const char *name;      /* as exported by ws2_32.dll */
    void **winsock;        /* where to keep the address of Winsock's function */
    void *replacement;
} hook;

extern const hook SOCKET_HOOKS[];
extern const int SOCKET_HOOK_COUNT;

#endif
