"""Builds what a guest boots from, out of Debian's packages and our dependencies' wheels.

    kernel/       Debian's kernel for clouds (it has virtio, vsock and KVM as modules) and its modules
    boot/         an initramfs of busybox and six modules, which mounts the root disk
    root/         the root disk: Python, libc, wheels, vsock modules
    outer/        the root disk of an outer guest: the same, and QEMU with what an inner guest needs

Root disks are not compressed: reading is cheap, and unpacking under software emulation is not.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cache import digest, make_once
from ..debian import download_packages, newest_dependency, unpack
from ..project import WARM_UP_TEST, Tools, Wheels, requirements, without_python_settings
from ..stages import SetupError
from .qemu import QEMU

PINS = Path(__file__).with_name("wheels.txt")
GUEST_FILES = Path(__file__).parent / "guest"
DEPMOD, MODPROBE = "/sbin/depmod", "/sbin/modprobe"
PROGRAMS = {
    QEMU: "qemu-system-x86",
    "mksquashfs": "squashfs-tools",
    "cpio": "cpio",
    DEPMOD: "kmod",
    MODPROBE: "kmod",
}

GUEST_PYTHON = "3.11"
GUEST_PACKAGES = (
    *("busybox-static", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libssl3", "libffi8", "libbz2-1.0"),
    *("liblzma5", "libexpat1", "libuuid1"),
)
GUEST_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
"""pip does not infer the older ones from the newer ones."""

USELESS_IN_GUEST = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"),
    *("usr/lib/python3.11/idlelib", "usr/lib/python3.11/lib2to3", "usr/lib/x86_64-linux-gnu/gconv"),
)

BOOT_MODULES = ("virtio_pci", "virtio_blk", "squashfs")
VSOCK_MODULES = ("vsock", "vsock_loopback", "vmw_vsock_virtio_transport")
ROLE_MODULES = {
    "single": VSOCK_MODULES,
    "inner": VSOCK_MODULES,
    # The outer guest plays the host: it must not have the transport of a guest as well.
    "outer": ("vsock", "vsock_loopback", "kvm", "kvm-amd", "vhost_vsock"),
}
"""kvm-amd: QEMU's software emulation knows AMD's virtualisation, and not Intel's."""

FIRMWARE = (
    *("qemu/linuxboot_dma.bin", "qemu/kvmvapic.bin", "seabios/bios-256k.bin"),
    *("qemu/multiboot_dma.bin", "qemu/pvh.bin"),
)


@dataclass(frozen=True)
class Images:
    kernel: Path
    initrd: Path
    root: Path
    outer: Path | None


def make_images(cache: Path, tools: Tools, nested: bool) -> Images:
    if os.geteuid() != 0:
        raise SetupError("please run as root: the image is made with chroot and Debian's packages")
    base = cache / "vm"
    code = digest(Path(__file__), *(f for f in GUEST_FILES.iterdir() if f.is_file()))
    kernel = make_once(base / "kernel", "newest", _make_kernel)
    packages = make_once(
        base / "packages",
        repr(GUEST_PACKAGES),
        lambda folder: download_packages(GUEST_PACKAGES, folder),
    )
    boot = make_once(base / "boot", code, lambda f: _make_boot(f, packages, kernel))
    recipe = f"{code}\n{wheels().recipe()}"
    root = make_once(base / "root", recipe, lambda f: _make_root(f, packages, kernel, tools))
    outer = None
    if nested:
        outer = make_once(base / "outer", recipe, lambda f: _make_outer(f, root, kernel, boot))
    return Images(
        kernel=kernel / "vmlinuz",
        initrd=boot / "initrd",
        root=root / "disk",
        outer=outer / "disk" if outer else None,
    )


def _make_kernel(folder: Path) -> None:
    download_packages([newest_dependency("linux-image-cloud-amd64", "linux-image-")], folder)
    package = next(folder.glob("*.deb"))
    unpack(package, folder)
    package.unlink()
    _run([DEPMOD, "--basedir", str(folder), _version(folder)])
    shutil.copy(folder / "boot" / f"vmlinuz-{_version(folder)}", folder / "vmlinuz")


def _make_boot(folder: Path, packages: Path, kernel: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tree = Path(scratch)
        busybox = tree / "package"
        unpack(next(packages.glob("busybox-static_*.deb")), busybox)
        for name in ("bin", "dev", "root", "modules"):
            (tree / name).mkdir()
        (busybox / "bin" / "busybox").rename(tree / "bin" / "busybox")
        shutil.rmtree(busybox)
        _link_busybox(tree)
        _copy_modules(_modules_in_order(kernel, BOOT_MODULES), tree / "modules", "boot")
        shutil.copy(GUEST_FILES / "boot_init", tree / "init")
        files = "\0".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        archive = subprocess.run(
            ["cpio", "--create", "--null", "--format=newc", "--owner=0:0", "--quiet"],
            cwd=tree,
            input=files.encode(),
            stdout=subprocess.PIPE,
            check=True,
        )
    (folder / "initrd").write_bytes(archive.stdout)


def wheels() -> Wheels:
    """Our dependencies for the guest's Python."""
    return Wheels(PINS, GUEST_PYTHON, GUEST_PLATFORMS, tuple(requirements()))


def _make_root(folder: Path, packages: Path, kernel: Path, tools: Tools) -> None:
    tree = folder / "tree"
    for package in sorted(packages.glob("*.deb")):
        unpack(package, tree)
    for name in USELESS_IN_GUEST:
        shutil.rmtree(tree / name, ignore_errors=True)
    for name in ("dev", "proc", "sys", "tmp", "run", "etc", "modules", "opt/site"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "etc" / "passwd").write_text("root:x:0:0:root:/tmp:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\n")
    (tree / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (tree / "usr" / "bin" / "python3").symlink_to("python3.11")
    _link_busybox(tree)
    at_boot = _modules_in_order(kernel, BOOT_MODULES)
    for role, modules in ROLE_MODULES.items():
        needed = [file for file in _modules_in_order(kernel, modules) if file not in at_boot]
        _copy_modules(needed, tree / "modules", role)
    shutil.copy(GUEST_FILES / "init", tree / "init")
    tools.install_wheels(tree / "opt" / "site", wheels())
    # By the guest's own Python: another one would leave files that it cannot use.
    compile_all = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    _run(["chroot", str(tree), "python3", *compile_all, "/usr/lib/python3.11", "/opt/site"])
    _let_pytest_rewrite_plugins(tree)
    _make_disk(tree, folder / "disk")


def _let_pytest_rewrite_plugins(tree: Path) -> None:
    (tree / "tmp" / "test_warm_up.py").write_text(WARM_UP_TEST)
    stand_in = tree / "dev" / "null"  # an ordinary file is enough for pytest
    stand_in.touch()
    pytest = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "/tmp/test_warm_up.py"]
    _run(["chroot", str(tree), *pytest], PYTHONPATH="/opt/site", HOME="/tmp")
    stand_in.unlink()
    shutil.rmtree(tree / "tmp")
    (tree / "tmp").mkdir()


def _make_outer(folder: Path, root: Path, kernel: Path, boot: Path) -> None:
    tree = folder / "tree"
    _run(["cp", "--archive", str(root / "tree"), str(tree)])
    shutil.copy(QEMU, tree / "usr" / "bin")
    _copy_libraries(Path(QEMU), tree)
    for name in FIRMWARE:
        destination = tree / "usr" / "share" / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("/usr/share") / name, destination)
    (tree / "inner").mkdir()
    shutil.copy(kernel / "vmlinuz", tree / "inner" / "vmlinuz")
    shutil.copy(boot / "initrd", tree / "inner" / "initrd")
    _make_disk(tree, folder / "disk")
    shutil.rmtree(tree)


def _link_busybox(tree: Path) -> None:
    """Give busybox's applets their names, where Debian's packages brought no such program."""
    listing = _run([str(tree / "bin" / "busybox"), "--list"])
    for applet in listing.split():
        link = tree / "bin" / applet
        if not link.exists():
            link.symlink_to("busybox")


def _modules_in_order(kernel: Path, modules: Sequence[str]) -> list[Path]:
    """The files of kernel modules and of what they need, in the order in which to load them."""
    order: dict[Path, None] = {}
    for module in modules:
        command = [MODPROBE, "--dirname", str(kernel), "--set-version", _version(kernel)]
        for line in _run([*command, "--show-depends", module]).splitlines():
            # "insmod <path>"; "builtin <name>" stands for what this kernel has built in
            action, _, path = line.strip().partition(" ")
            if action == "insmod":
                order[Path(path)] = None
    return list(order)


def _copy_modules(files: Sequence[Path], folder: Path, name: str) -> None:
    for file in files:
        shutil.copy(file, folder)
    (folder / f"{name}.list").write_text("".join(f"{file.name}\n" for file in files))


def _copy_libraries(program: Path, tree: Path) -> None:
    for library in re.findall(r"=> (/\S+)", _run(["ldd", str(program)])):
        name = Path(library).name
        places = [tree / p / "x86_64-linux-gnu" / name for p in ("lib", "usr/lib")]
        if not any(place.exists() for place in places):
            shutil.copy(library, places[1])


def _make_disk(tree: Path, disk: Path) -> None:
    options = ["-noappend", "-no-progress", "-quiet", "-all-root"]
    uncompressed = ["-noI", "-noD", "-noF", "-noX"]
    _run(["mksquashfs", str(tree), str(disk), *options, *uncompressed])


def _version(kernel: Path) -> str:
    return next((kernel / "lib" / "modules").iterdir()).name


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**without_python_settings(os.environ), "LC_ALL": "C", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SetupError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
