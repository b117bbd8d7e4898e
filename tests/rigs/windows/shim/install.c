/* Puts our functions in place of Winsock's in the import table of a module that is already loaded.
 * Only that module notices: for Python this is _socket.pyd.
 */
#include "hvshim.h"

static bool find_winsock(void)
{
    HMODULE winsock = LoadLibraryA("ws2_32.dll");
    for (int i = 0; i < SOCKET_HOOK_COUNT; i++) {
        const hook *each = &SOCKET_HOOKS[i];
        *each->winsock = (void *)GetProcAddress(winsock, each->name);
        if (!*each->winsock)
            return false;
    }
    return true;
}

static void *replacement_for(const void *function)
{
    for (int i = 0; i < SOCKET_HOOK_COUNT; i++)
        if (*SOCKET_HOOKS[i].winsock == function)
            return SOCKET_HOOKS[i].replacement;
    return NULL;
}

static bool replace(void **import)
{
    void *replacement = replacement_for(*import);
    DWORD protection;
    if (!replacement || !VirtualProtect(import, sizeof *import, PAGE_READWRITE, &protection))
        return false;
    *import = replacement;
    VirtualProtect(import, sizeof *import, protection, &protection);
    return true;
}

static int replace_imports(HMODULE module)
{
    char *base = (char *)module;
    IMAGE_NT_HEADERS *headers = (IMAGE_NT_HEADERS *)(base + ((IMAGE_DOS_HEADER *)base)->e_lfanew);
    DWORD imports =
        headers->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT].VirtualAddress;
    if (!imports)
        return 0;
    int replaced = 0;
    IMAGE_IMPORT_DESCRIPTOR *library = (IMAGE_IMPORT_DESCRIPTOR *)(base + imports);
    for (; library->Name; library++) {
        if (_stricmp(base + library->Name, "ws2_32.dll"))
            continue;
        for (void **import = (void **)(base + library->FirstThunk); *import; import++)
            replaced += replace(import);
    }
    return replaced;
}

/* Returns how many functions were replaced; 0 or less means that the shim does not work. */
__declspec(dllexport) int hvshim_install(const wchar_t *module, const char *machine,
                                         const GUID *partition, int require_registration)
{
    HMODULE target = GetModuleHandleW(module);
    if (!target || !find_winsock())
        return -1;
    if (!machine_join(machine, partition, require_registration))
        return -2;
    return replace_imports(target);
}
