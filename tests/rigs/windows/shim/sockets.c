/* What the socket calls do for family 34. Calls on other sockets go to Winsock unchanged.
 *
 * Underneath each AF_HYPERV socket is a TCP socket on 127.0.0.1. What TCP cannot know about it is
 * kept in `sockets`, indexed by the handle: Wine and Windows hand out small multiples of four.
 *
 * Not replaced are ConnectEx and AcceptEx. CPython's proactor loop never gets that far with
 * AF_HYPERV: it refuses the family before ConnectEx, and creates a socket with protocol 0 for AcceptEx.
 */
#include "hvshim.h"
#include <rpc.h>

typedef struct {
    bool in_use;
    bool bound;
    bool connected;
    bool nonblocking;
    hv_address local;
    hv_address peer;
    DWORD options[5]; /* by the number of the option */
} state;

#define SOCKETS 65536
static state sockets[SOCKETS];

#define CONNECT_TIMEOUT 1
#define DEFAULT_CONNECT_TIMEOUT 2000

/* Socket options at level HV_PROTOCOL_RAW and the greatest value each may have. */
static const struct {
    int name;
    DWORD greatest;
} OPTIONS[] = {
    {CONNECT_TIMEOUT, 300000}, /* in milliseconds */
    {2, 0xffffffff}, /* HVSOCKET_CONTAINER_PASSTHRU */
    {4, 0xffffffff}, /* HVSOCKET_CONNECTED_SUSPEND */
};

#define WINSOCK(result, name, ...) static result(WSAAPI *winsock_##name)(__VA_ARGS__)
WINSOCK(SOCKET, WSASocketW, int, int, int, WSAPROTOCOL_INFOW *, GROUP, DWORD);
WINSOCK(SOCKET, socket, int, int, int);
WINSOCK(SOCKET, accept, SOCKET, struct sockaddr *, int *);
WINSOCK(int, WSADuplicateSocketW, SOCKET, DWORD, WSAPROTOCOL_INFOW *);
WINSOCK(int, bind, SOCKET, const struct sockaddr *, int);
WINSOCK(int, listen, SOCKET, int);
WINSOCK(int, connect, SOCKET, const struct sockaddr *, int);
WINSOCK(int, getsockname, SOCKET, struct sockaddr *, int *);
WINSOCK(int, getpeername, SOCKET, struct sockaddr *, int *);
WINSOCK(int, setsockopt, SOCKET, int, int, const char *, int);
WINSOCK(int, getsockopt, SOCKET, int, int, char *, int *);
WINSOCK(int, ioctlsocket, SOCKET, long, u_long *);
WINSOCK(int, closesocket, SOCKET);

static int fail(int error)
{
    WSASetLastError(error);
    return SOCKET_ERROR;
}

static SOCKET fail_without_socket(int error)
{
    WSASetLastError(error);
    return INVALID_SOCKET;
}

/* --- the table of this process's sockets ------------------------------------------------------ */

static state *slot_of(SOCKET handle)
{
    return handle / 4 < SOCKETS ? &sockets[handle / 4] : NULL;
}

/* The entry of an AF_HYPERV socket, or NULL if the handle is something else. */
static state *find(SOCKET handle)
{
    state *entry = slot_of(handle);
    return entry && entry->in_use ? entry : NULL;
}

static void forget(SOCKET handle)
{
    state *entry = slot_of(handle);
    if (entry)
        entry->in_use = false;
}

/* Take over a TCP socket as AF_HYPERV. Closes it when the table cannot hold it. */
static state *adopt(SOCKET handle)
{
    state *entry = slot_of(handle);
    if (!entry) {
        winsock_closesocket(handle);
        WSASetLastError(WSAEMFILE);
        return NULL;
    }
    memset(entry, 0, sizeof *entry);
    entry->local.family = entry->peer.family = AF_HYPERV_FAMILY;
    entry->options[CONNECT_TIMEOUT] = DEFAULT_CONNECT_TIMEOUT;
    entry->in_use = true;
    return entry;
}

/* --- the TCP socket underneath ---------------------------------------------------------------- */

static USHORT own_port(SOCKET handle)
{
    struct sockaddr_in name;
    int size = sizeof name;
    return winsock_getsockname(handle, (struct sockaddr *)&name, &size) ? 0 : ntohs(name.sin_port);
}

static USHORT other_port(SOCKET handle)
{
    struct sockaddr_in name;
    int size = sizeof name;
    return winsock_getpeername(handle, (struct sockaddr *)&name, &size) ? 0 : ntohs(name.sin_port);
}

static struct sockaddr_in loopback(USHORT port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port)};
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return name;
}

/* Make sure that the socket has a TCP port of its own. */
static int take_port(SOCKET handle)
{
    if (own_port(handle))
        return 0;
    struct sockaddr_in any_port = loopback(0);
    bool failed = winsock_bind(handle, (struct sockaddr *)&any_port, sizeof any_port);
    return failed ? WSAGetLastError() : 0;
}

/* --- addresses -------------------------------------------------------------------------------- */

static int check_address(const struct sockaddr *name, int size)
{
    if (!name || size < (int)sizeof(hv_address))
        return WSAEFAULT;
    return name->sa_family == AF_HYPERV_FAMILY ? 0 : WSAEAFNOSUPPORT;
}

static int give_address(const hv_address *address, struct sockaddr *name, int *size)
{
    if (!name || !size || *size < (int)sizeof *address)
        return fail(WSAEFAULT);
    memcpy(name, address, sizeof *address);
    *size = sizeof *address;
    return 0;
}

/* Both ends of a connection within one partition have CHILDREN as their own VM id. */
static void name_own_end(state *entry, const GUID *vm_otherwise)
{
    bool loopback_connection = same(&entry->peer.vm, &VM_LOOPBACK);
    entry->local.vm = loopback_connection ? VM_CHILDREN : *vm_otherwise;
}

/* --- creating and closing --------------------------------------------------------------------- */

/* What travels inside WSAPROTOCOL_INFOW when a socket is duplicated. */
typedef struct {
    hv_address local;
    hv_address peer;
    bool bound;
    bool connected;
    bool nonblocking;
} luggage;

_Static_assert(sizeof(luggage) <= sizeof(((WSAPROTOCOL_INFOW *)0)->szProtocol), "luggage fits");

static SOCKET open_duplicate(const WSAPROTOCOL_INFOW *info, GROUP group, DWORD flags)
{
    WSAPROTOCOL_INFOW tcp = *info;
    tcp.iAddressFamily = AF_INET;
    tcp.iProtocol = IPPROTO_TCP;
    SOCKET handle = winsock_WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, &tcp, group, flags);
    if (handle == INVALID_SOCKET)
        return handle;
    state *entry = adopt(handle);
    if (!entry)
        return INVALID_SOCKET;
    luggage carried;
    memcpy(&carried, info->szProtocol, sizeof carried);
    entry->local = carried.local;
    entry->peer = carried.peer;
    entry->bound = carried.bound;
    entry->connected = carried.connected;
    entry->nonblocking = carried.nonblocking;
    return handle;
}

static SOCKET WSAAPI hv_WSASocketW(int family, int type, int protocol, WSAPROTOCOL_INFOW *info,
                                   GROUP group, DWORD flags)
{
    if (info && info->iAddressFamily == AF_HYPERV_FAMILY)
        return open_duplicate(info, group, flags);
    if (info || family != AF_HYPERV_FAMILY) {
        SOCKET handle = winsock_WSASocketW(family, type, protocol, info, group, flags);
        forget(handle); /* the handle may have been an AF_HYPERV socket that others closed */
        return handle;
    }
    if (type != SOCK_STREAM)
        return fail_without_socket(WSAESOCKTNOSUPPORT);
    if (protocol != HV_PROTOCOL_RAW)
        return fail_without_socket(WSAEPROTOTYPE);
    SOCKET handle = winsock_WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, group, flags);
    if (handle == INVALID_SOCKET || !adopt(handle))
        return INVALID_SOCKET;
    return handle;
}

static SOCKET WSAAPI hv_socket(int family, int type, int protocol)
{
    return hv_WSASocketW(family, type, protocol, NULL, 0, WSA_FLAG_OVERLAPPED);
}

static int WSAAPI hv_WSADuplicateSocketW(SOCKET handle, DWORD process, WSAPROTOCOL_INFOW *info)
{
    const state *entry = find(handle);
    int failed = winsock_WSADuplicateSocketW(handle, process, info);
    if (failed || !entry)
        return failed;
    luggage carried = {
        entry->local, entry->peer, entry->bound, entry->connected, entry->nonblocking};
    info->iAddressFamily = AF_HYPERV_FAMILY;
    info->iProtocol = HV_PROTOCOL_RAW;
    memset(info->szProtocol, 0, sizeof info->szProtocol);
    memcpy(info->szProtocol, &carried, sizeof carried);
    return 0;
}

static int WSAAPI hv_closesocket(SOCKET handle)
{
    /* The listener's entry goes with the handle that was bound, even if a duplicate lives on. */
    const state *entry = find(handle);
    if (entry && entry->bound)
        machine_withdraw(handle);
    forget(handle); /* before closing: the number may be handed out again at once */
    return winsock_closesocket(handle);
}

/* --- listening -------------------------------------------------------------------------------- */

static int WSAAPI hv_bind(SOCKET handle, const struct sockaddr *name, int size)
{
    state *entry = find(handle);
    if (!entry)
        return winsock_bind(handle, name, size);
    int error = check_address(name, size);
    if (!error && entry->bound)
        error = WSAEINVAL;
    if (!error)
        error = take_port(handle);
    const hv_address *address = (const hv_address *)name;
    if (!error)
        error = machine_publish(handle, address, own_port(handle));
    if (error)
        return fail(error);
    entry->local = *address;
    entry->bound = true;
    return 0;
}

static int WSAAPI hv_listen(SOCKET handle, int backlog)
{
    const state *entry = find(handle);
    return entry && !entry->bound ? fail(WSAEINVAL) : winsock_listen(handle, backlog);
}

static SOCKET WSAAPI hv_accept(SOCKET handle, struct sockaddr *name, int *size)
{
    const state *server = find(handle);
    if (!server) {
        SOCKET plain = winsock_accept(handle, name, size);
        forget(plain);
        return plain;
    }
    if (name && (!size || *size < (int)sizeof(hv_address)))
        return fail_without_socket(WSAEFAULT);
    /* Another thread may close the listening socket while we wait; keep what we need of it. */
    hv_address bound = server->local;
    bool nonblocking = server->nonblocking;
    SOCKET accepted = winsock_accept(handle, NULL, NULL);
    if (accepted == INVALID_SOCKET)
        return accepted;
    state *entry = adopt(accepted);
    if (!entry)
        return INVALID_SOCKET;
    entry->connected = true;
    entry->nonblocking = nonblocking; /* Winsock lets it be inherited */
    entry->local = bound;
    machine_who_calls(other_port(accepted), own_port(accepted), &entry->peer);
    name_own_end(entry, &bound.vm);
    if (name)
        give_address(&entry->peer, name, size);
    return accepted;
}

/* --- connecting ------------------------------------------------------------------------------- */

static int wait_until_connected(SOCKET handle, DWORD milliseconds)
{
    fd_set connected, failed;
    FD_ZERO(&connected);
    FD_SET(handle, &connected);
    failed = connected;
    struct timeval limit = {milliseconds / 1000, milliseconds % 1000 * 1000};
    int ready = select(0, NULL, &connected, &failed, &limit);
    if (ready == SOCKET_ERROR)
        return WSAGetLastError();
    if (ready == 0)
        return WSAETIMEDOUT;
    int error = 0, size = sizeof error;
    winsock_getsockopt(handle, SOL_SOCKET, SO_ERROR, (char *)&error, &size);
    return error;
}

/* A blocking connect that gives up in time, which TCP's own does not while a queue is full. */
static int connect_within(SOCKET handle, const struct sockaddr_in *to, DWORD milliseconds)
{
    u_long on = 1, off = 0;
    winsock_ioctlsocket(handle, FIONBIO, &on);
    bool failed = winsock_connect(handle, (const struct sockaddr *)to, sizeof *to);
    int error = failed ? WSAGetLastError() : 0;
    if (error == WSAEWOULDBLOCK)
        error = wait_until_connected(handle, milliseconds);
    winsock_ioctlsocket(handle, FIONBIO, &off);
    return error;
}

static int WSAAPI hv_connect(SOCKET handle, const struct sockaddr *name, int size)
{
    state *entry = find(handle);
    if (!entry)
        return winsock_connect(handle, name, size);
    USHORT listener_port = 0;
    int error = check_address(name, size);
    const hv_address *target = (const hv_address *)name;
    if (!error)
        error = machine_resolve(target, &listener_port);
    if (!error)
        error = take_port(handle);
    if (error)
        return fail(error);
    entry->peer = *target;
    if (!entry->bound && !entry->connected) {
        UuidCreate(&entry->local.service);
        name_own_end(entry, &VM_WILDCARD);
    }
    entry->connected = true;
    /* Announced before the listener can possibly accept it. */
    machine_announce(own_port(handle), listener_port, &entry->local.service);
    struct sockaddr_in to = loopback(listener_port);
    if (entry->nonblocking)
        return winsock_connect(handle, (struct sockaddr *)&to, sizeof to);
    error = connect_within(handle, &to, entry->options[CONNECT_TIMEOUT]);
    return error ? fail(error) : 0;
}

/* --- names and options ------------------------------------------------------------------------ */

static int WSAAPI hv_getsockname(SOCKET handle, struct sockaddr *name, int *size)
{
    const state *entry = find(handle);
    if (!entry)
        return winsock_getsockname(handle, name, size);
    if (!entry->bound && !entry->connected)
        return fail(WSAEINVAL);
    return give_address(&entry->local, name, size);
}

static int WSAAPI hv_getpeername(SOCKET handle, struct sockaddr *name, int *size)
{
    const state *entry = find(handle);
    if (!entry)
        return winsock_getpeername(handle, name, size);
    if (!other_port(handle))
        return fail(WSAENOTCONN);
    return give_address(&entry->peer, name, size);
}

static const DWORD *greatest_value(int option)
{
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++)
        if (OPTIONS[i].name == option)
            return &OPTIONS[i].greatest;
    return NULL;
}

static int WSAAPI hv_setsockopt(SOCKET handle, int level, int option, const char *value, int size)
{
    state *entry = find(handle);
    if (!entry || (level != HV_PROTOCOL_RAW && level != IPPROTO_TCP))
        return winsock_setsockopt(handle, level, option, value, size);
    const DWORD *greatest = greatest_value(option);
    if (level == IPPROTO_TCP || !greatest)
        return fail(WSAENOPROTOOPT);
    DWORD number;
    if (!value || size < (int)sizeof number)
        return fail(WSAEFAULT);
    memcpy(&number, value, sizeof number);
    if (number > *greatest)
        return fail(WSAEINVAL);
    entry->options[option] = number;
    return 0;
}

static int WSAAPI hv_getsockopt(SOCKET handle, int level, int option, char *value, int *size)
{
    const state *entry = find(handle);
    if (entry && (level == HV_PROTOCOL_RAW || level == IPPROTO_TCP)) {
        if (level == IPPROTO_TCP || !greatest_value(option))
            return fail(WSAENOPROTOOPT);
        if (!value || !size || *size < (int)sizeof(DWORD))
            return fail(WSAEFAULT);
        memcpy(value, &entry->options[option], sizeof(DWORD));
        *size = sizeof(DWORD);
        return 0;
    }
    int failed = winsock_getsockopt(handle, level, option, value, size);
    if (!failed && entry && level == SOL_SOCKET && option == SO_PROTOCOL_INFOW) {
        WSAPROTOCOL_INFOW *info = (WSAPROTOCOL_INFOW *)value;
        info->iAddressFamily = AF_HYPERV_FAMILY;
        info->iProtocol = HV_PROTOCOL_RAW;
    }
    return failed;
}

static int WSAAPI hv_ioctlsocket(SOCKET handle, long command, u_long *argument)
{
    int failed = winsock_ioctlsocket(handle, command, argument);
    state *entry = find(handle);
    if (!failed && entry && command == (long)FIONBIO)
        entry->nonblocking = *argument != 0;
    return failed;
}

/* --- what install.c puts in place ------------------------------------------------------------- */

#define HOOK(name, replacement) {#name, (void **)&winsock_##name, (void *)replacement}
const hook SOCKET_HOOKS[] = {
    HOOK(WSASocketW, hv_WSASocketW),
    HOOK(socket, hv_socket),
    HOOK(WSADuplicateSocketW, hv_WSADuplicateSocketW),
    HOOK(closesocket, hv_closesocket),
    HOOK(bind, hv_bind),
    HOOK(listen, hv_listen),
    HOOK(accept, hv_accept),
    HOOK(connect, hv_connect),
    HOOK(getsockname, hv_getsockname),
    HOOK(getpeername, hv_getpeername),
    HOOK(setsockopt, hv_setsockopt),
    HOOK(getsockopt, hv_getsockopt),
    HOOK(ioctlsocket, hv_ioctlsocket),
};
const int SOCKET_HOOK_COUNT = sizeof SOCKET_HOOKS / sizeof *SOCKET_HOOKS;
