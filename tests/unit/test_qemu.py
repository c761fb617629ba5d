"""QEMU's command line, to the letter."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import PurePosixPath
from typing import Any

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import PlanError
from osbuilder.guest.boot import AGENT_CMDLINE
from osbuilder.guest.qemu import parse_words, render_argv, render_cmdline
from osbuilder.guest.spec import USUAL_DEVICES, Accel, Device, Guest, RootKind
from osbuilder.image.verity import Verity
from osbuilder.launch import asked

X86 = parse_arch("x86_64")
IMAGE = PurePosixPath("/w/guest.img")
SIZE = 256 * 1024 * 1024
LINE = "console=ttyS0 quiet panic=-1 reboot=t"


def guest(name: str = "q35", **changes: Any) -> Guest:
    base = Guest(
        arch=X86,
        machine=X86.machine(name),
        accel=Accel.TCG,
        kernel=PurePosixPath("/w/vmlinux"),
        root=RootKind.PMEM,
        image=IMAGE,
        image_size_bytes=SIZE,
        console=PurePosixPath("/w/console"),
        report=PurePosixPath("/w/report"),
    )
    return dataclasses.replace(base, **changes)


def initrd_guest(machine: str = "q35", **changes: Any) -> Guest:
    root = {"root": RootKind.INITRD, "image": None, "initrd": PurePosixPath("/w/initrd")}
    return guest(machine, **(root | changes))


def test_a_dax_root_is_a_read_only_nvdimm_on_q35() -> None:
    assert render_argv(guest()) == (
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "q35,accel=tcg,nvdimm=on",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        "256M,slots=1,maxmem=512M",
        "-kernel",
        "/w/vmlinux",
        "-object",
        "memory-backend-file,id=root,mem-path=/w/guest.img,size=268435456,share=on,readonly=on",
        "-device",
        "nvdimm,memdev=root,unarmed=on",
        "-append",
        f"{LINE} root=/dev/pmem0p1 rootflags=dax,data=ordered,errors=remount-ro ro rootfstype=ext4",
        "-chardev",
        "file,id=console,path=/w/console",
        "-serial",
        "chardev:console",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        "file,id=report,path=/w/report",
        "-device",
        "virtserialport,chardev=report,name=org.osbuilder.report",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-balloon-pci,free-page-reporting=on",
    )


def test_a_machine_of_another_name_is_the_type_that_qemu_knows_with_modern_devices() -> None:
    aarch64 = parse_arch("aarch64")
    argv = render_argv(guest(arch=aarch64, machine=aarch64.machine("virt-mmio"), root=RootKind.VIRTIO_BLK))
    assert argv[argv.index("-machine") + 1] == "virt,accel=tcg"
    assert argv[argv.index("-global") + 1] == "virtio-mmio.force-legacy=false"
    assert "virtio-blk-device,drive=root" in argv
    plain = render_argv(guest(arch=aarch64, machine=aarch64.machine("virt"), root=RootKind.VIRTIO_BLK))
    assert "-global" not in plain


def test_an_initrd_boots_on_microvm_over_virtio_mmio() -> None:
    devices = (Device.NET, Device.RNG)
    assert render_argv(initrd_guest("microvm", accel=Accel.KVM, vcpus=2, devices=devices)) == (
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "microvm,accel=kvm,acpi=off",
        "-global",
        "virtio-mmio.force-legacy=false",
        "-cpu",
        "host",
        "-smp",
        "2",
        "-m",
        "256M",
        "-kernel",
        "/w/vmlinux",
        "-initrd",
        "/w/initrd",
        "-append",
        "console=ttyS0 quiet panic=-1 reboot=t",
        "-chardev",
        "file,id=console,path=/w/console",
        "-serial",
        "chardev:console",
        "-device",
        "virtio-serial-device",
        "-chardev",
        "file,id=report,path=/w/report",
        "-device",
        "virtserialport,chardev=report,name=org.osbuilder.report",
        "-device",
        "virtio-rng-device",
        "-netdev",
        "user,id=net,restrict=on",
        "-device",
        "virtio-net-device,netdev=net",
    )


@pytest.mark.parametrize(
    ("arch", "machine", "cpu", "console", "bus"),
    [
        ("aarch64", "virt,accel=tcg", "max", "ttyAMA0", "pci"),
        ("ppc64le", "pseries,accel=tcg,x-vof=on", "power9_v2.0", "hvc0", "pci"),
        ("s390x", "s390-ccw-virtio,accel=tcg", "max", "ttysclp0", "ccw"),
    ],
)
def test_the_other_architectures_have_machines_consoles_and_a_bus_of_their_own(
    arch: str, machine: str, cpu: str, console: str, bus: str
) -> None:
    row = parse_arch(arch)
    argv = render_argv(guest(arch=row, machine=row.machines[0], root=RootKind.VIRTIO_BLK, devices=USUAL_DEVICES))
    assert argv[0] == row.qemu
    options = dict(itertools.pairwise(argv))
    assert options["-machine"] == machine
    assert options["-cpu"] == cpu
    assert options["-append"].startswith(f"console={console} quiet panic=-1 root=/dev/vda1 ")
    devices = {argv[at + 1] for at, word in enumerate(argv) if word == "-device"}
    assert {f"virtio-blk-{bus},drive=root", f"virtio-serial-{bus}", f"virtio-rng-{bus}"} <= devices
    assert f"virtio-net-{bus},netdev=net{',romfile=' if bus == 'pci' else ''}" in devices


@pytest.mark.parametrize(("machine", "device"), [("q35", "virtio-blk-pci"), ("microvm", "virtio-blk-device")])
def test_a_disk_root_is_a_read_only_virtio_disk(machine: str, device: str) -> None:
    argv = render_argv(guest(machine, root=RootKind.VIRTIO_BLK))
    at = argv.index("-blockdev")
    assert argv[at : at + 4] == (
        "-blockdev",
        "driver=raw,node-name=root,read-only=on,file.driver=file,file.filename=/w/guest.img",
        "-device",
        f"{device},drive=root",
    )
    assert not any("nvdimm" in word for word in argv)


def test_a_root_on_scsi_is_the_only_disk_of_its_bus() -> None:
    argv = render_argv(guest(root=RootKind.VIRTIO_SCSI, devices=USUAL_DEVICES))
    assert [word for word in argv if "scsi" in word] == ["virtio-scsi-pci", "scsi-hd,drive=root"]
    line = render_cmdline(guest(root=RootKind.VIRTIO_SCSI))
    assert " root=/dev/sda1 rootflags=data=ordered,errors=remount-ro ro " in line
    assert "virtio-scsi-device" in render_argv(guest("microvm", root=RootKind.VIRTIO_SCSI))


def test_a_root_on_virtio_pmem_is_mapped_without_an_nvdimm() -> None:
    argv = render_argv(guest(root=RootKind.VIRTIO_PMEM))
    assert argv[argv.index("-machine") + 1] == "q35,accel=tcg"
    assert argv[argv.index("-m") + 1] == "256M,slots=1,maxmem=512M"
    at = argv.index("-object")
    assert argv[at : at + 4] == (
        "-object",
        "memory-backend-file,id=root,mem-path=/w/guest.img,size=268435456,share=on,readonly=on",
        "-device",
        "virtio-pmem-pci,memdev=root",
    )
    assert render_cmdline(guest(root=RootKind.VIRTIO_PMEM)) == render_cmdline(guest())
    virt = parse_arch("aarch64")
    on_arm = guest(root=RootKind.VIRTIO_PMEM)
    with pytest.raises(PlanError, match="QEMU has no device virtio-pmem for this machine"):
        render_argv(dataclasses.replace(on_arm, arch=virt, machine=virt.machines[0]))
    with pytest.raises(PlanError, match="the machine has no PCI bus for a device virtio-pmem"):
        render_argv(guest("microvm", root=RootKind.VIRTIO_PMEM))
    with pytest.raises(PlanError, match="expected an image of a multiple of 128 MiB"):
        render_argv(guest(root=RootKind.VIRTIO_PMEM, image_size_bytes=1 << 20))


def test_a_virtio_console_is_the_console_and_the_report_goes_there() -> None:
    with_hvc = initrd_guest(devices=(Device.CONSOLE,))
    assert render_cmdline(with_hvc).startswith("console=hvc0 ")
    argv = render_argv(with_hvc)
    assert argv[argv.index("-chardev") :][:2] == ("-chardev", "file,id=console,path=/w/console")
    assert "virtconsole,chardev=console" in argv
    assert not any(word == "-serial" or "virtserialport" in word for word in argv)
    power = parse_arch("ppc64le")
    with pytest.raises(PlanError, match="its console hvc0 is no virtio-console's"):
        render_argv(dataclasses.replace(with_hvc, arch=power, machine=power.machines[0]))


def test_a_disk_root_has_no_dax_on_its_kernel_line() -> None:
    line = f"{LINE} root=/dev/vda1 rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4"
    assert render_cmdline(guest(root=RootKind.VIRTIO_BLK)) == line


def test_mount_options_of_ext4_are_not_given_to_other_filesystems() -> None:
    assert render_cmdline(guest(fstype="xfs")).endswith("root=/dev/pmem0p1 rootflags=dax ro rootfstype=xfs")
    line = render_cmdline(guest(fstype="erofs", root=RootKind.VIRTIO_BLK))
    assert line.endswith("reboot=t root=/dev/vda1 ro rootfstype=erofs")


def test_extra_words_come_last_on_the_kernel_line() -> None:
    line = render_cmdline(initrd_guest(cmdline=("osbuilder.probes=all", "osbuilder.then=poweroff")))
    assert line == "console=ttyS0 quiet panic=-1 reboot=t osbuilder.probes=all osbuilder.then=poweroff"


VERITY = Verity(root_hash="ab" * 32, salt="cd" * 32, data_blocks=300)


@pytest.mark.parametrize("machine", ["q35", "microvm"])
def test_a_verified_root_is_a_read_only_disk_that_device_mapper_reads(machine: str) -> None:
    verified = guest(machine, root=RootKind.VERITY, verity=VERITY)
    plain = guest(machine, root=RootKind.VIRTIO_BLK)
    assert render_cmdline(verified) == (
        "console=ttyS0 quiet panic=-1 reboot=t "
        'dm-mod.create="root,,,ro,0 2400 verity 1 /dev/vda1 /dev/vda2 4096 4096 300 0 sha256 '
        f'{"ab" * 32} {"cd" * 32} 1 panic_on_corruption" root=/dev/dm-0 '
        "rootflags=data=ordered,errors=remount-ro ro rootfstype=ext4"
    )
    differing = [pair for pair in zip(render_argv(verified), render_argv(plain), strict=True) if len(set(pair)) > 1]
    assert differing == [(render_cmdline(verified), render_cmdline(plain))]


def test_init_is_rdinit_in_an_initrd() -> None:
    assert " init=/usr/bin/osbuilder-probe" in render_cmdline(guest(init="/usr/bin/osbuilder-probe"))
    assert " rdinit=/sbin/init" in render_cmdline(initrd_guest(init="/sbin/init"))


def test_without_files_the_console_is_standard_output_and_there_is_no_port() -> None:
    argv = render_argv(guest(console=None, report=None))
    assert argv[argv.index("-chardev") + 1] == "stdio,id=console,signal=off"
    assert not any("virtio-serial" in word or "virtserialport" in word for word in argv)


def test_a_port_that_is_watched_has_an_identity_and_a_monitor_that_tells_of_it() -> None:
    plain, watched = (render_argv(guest("microvm", root=RootKind.VIRTIO_BLK, port=port)) for port in (None, "agent.0"))
    at = watched.index("virtserialport,chardev=report,name=org.osbuilder.report") + 1
    further = (
        *("-chardev", "null,id=port"),
        *("-device", "virtserialport,id=port,chardev=port,name=agent.0"),
        *("-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control"),
    )
    assert (*watched[:at], *watched[at + len(further) :]) == plain
    assert watched[at : at + len(further)] == further


def test_a_port_is_watched_only_where_the_console_leaves_standard_output_alone() -> None:
    argv = render_argv(guest(console=None, report=None, port="agent.0"))
    assert "virtserialport,id=port,chardev=port,name=agent.0" in argv
    assert "-mon" not in argv


def test_the_ports_of_a_guest_have_different_names() -> None:
    with pytest.raises(PlanError, match=r"the port org\.osbuilder\.report is the one that the probe agent reports"):
        render_argv(guest(port="org.osbuilder.report"))


def test_a_network_card_on_pci_asks_for_no_boot_rom() -> None:
    assert "virtio-net-pci,netdev=net,romfile=" in render_argv(guest(devices=(Device.NET,)))


def test_the_order_in_which_devices_are_listed_changes_nothing() -> None:
    some = render_argv(guest(devices=(Device.NET, Device.RNG, Device.BALLOON)))
    assert some == render_argv(guest(devices=(Device.BALLOON, Device.NET, Device.RNG, Device.RNG)))


def test_a_persistent_memory_has_its_place_in_the_guests_address_space() -> None:
    argv = render_argv(guest(root=RootKind.VIRTIO_BLK, devices=(Device.PMEM, Device.IOMMU)))
    assert argv[argv.index("-m") + 1] == "256M,slots=1,maxmem=272M"
    assert argv[-6:] == (
        *("-object", "memory-backend-ram,id=pmem,size=16M", "-device", "virtio-pmem-pci,memdev=pmem"),
        *("-device", "virtio-iommu-pci"),
    )
    mapped = render_argv(guest(devices=(Device.PMEM,)))
    assert mapped[mapped.index("-m") + 1] == "256M,slots=1,maxmem=528M"


def test_a_shared_folder_is_on_the_bus_of_the_machine_and_virtiofsd_maps_the_memory() -> None:
    share = PurePosixPath("/w/a,b")
    argv = render_argv(initrd_guest(devices=(Device.PLAN9,), share=share))
    assert argv[-4:] == (
        *("-fsdev", "local,id=share,path=/w/a,,b,security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=share,mount_tag=osbuilder"),
    )
    assert not any("memory" in word for word in argv)
    argv = render_argv(initrd_guest("microvm", devices=(Device.VIRTIOFS,), share=share, memory_mib=64))
    assert argv[-4:] == (
        *("-chardev", "socket,id=virtiofsd,path=/w/a,,b.socket"),
        *("-device", "vhost-user-fs-device,chardev=virtiofsd,tag=osbuilder"),
    )
    assert argv[argv.index("-object") + 1] == "memory-backend-memfd,id=memory,size=64M,share=on"
    assert argv[argv.index("-machine") + 1].endswith(",memory-backend=memory")


def test_vsock_is_attached_only_when_asked_for() -> None:
    assert not any("vsock" in word for word in render_argv(guest()))
    assert render_argv(guest(vsock_cid=3))[-2:] == ("-device", "vhost-vsock-pci,guest-cid=3")


def test_a_comma_in_a_path_does_not_end_a_value() -> None:
    argv = render_argv(guest(image=PurePosixPath("/w/a,b.img"), console=PurePosixPath("/w/c,d")))
    assert "memory-backend-file,id=root,mem-path=/w/a,,b.img,size=268435456,share=on,readonly=on" in argv
    assert "file,id=console,path=/w/c,,d" in argv


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (
            guest("microvm"),
            "pmem root on x86_64 microvm): the machine takes no NVDIMM\n  Use q35 or q35-uefi, or another root.",
        ),
        (
            guest("microvm", root=RootKind.VIRTIO_BLK, devices=(Device.IOMMU,)),
            "virtio-blk root on x86_64 microvm): the machine has no PCI bus for a device iommu",
        ),
        (
            guest("microvm", root=RootKind.VIRTIO_BLK, devices=(Device.VMGENID,)),
            "virtio-blk root on x86_64 microvm): QEMU has no device vmgenid for this machine",
        ),
        (guest(image_size_bytes=SIZE + 1), "expected an image of a multiple of 128 MiB, got 268435457 bytes"),
        (guest(image_size_bytes=0), "expected an image of a multiple of 128 MiB, got 0 bytes"),
        (guest(image=None), "expected an image and no initrd"),
        (guest(initrd=PurePosixPath("/w/initrd")), "expected an image and no initrd"),
        (initrd_guest(initrd=None), "expected an initrd and no image"),
        (guest(root=RootKind.VERITY), "expected a root hash for a verity root and for no other, got none"),
        (guest(verity=VERITY), "expected a root hash for a verity root and for no other, got one"),
        (guest(memory_mib=16), "expected 32 MiB or more, got 16 MiB"),
        (guest(vcpus=0), "expected one vCPU or more, got 0"),
        (guest(vsock_cid=2), "expected a vsock CID from 3 to 4294967294, got 2"),
        (guest(cmdline=("a" * 2000,)), "the kernel line is too long for x86_64: expected 2018 bytes at most, got 2"),
        (guest(cmdline=("a\nb",)), r"'a\nb' cannot stand on a kernel command line"),
        (guest(cmdline=('a="b',)), "cannot stand on a kernel command line"),
    ],
)
def test_a_guest_that_cannot_be_is_refused(refused: Guest, message: str) -> None:
    for render in (render_argv, render_cmdline):
        with pytest.raises(PlanError, match=re.escape(message)):
            render(refused)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        (" quiet  loglevel=7\t", ("quiet", "loglevel=7")),
        ('dyndbg="file drivers/x.c +p" quiet', ('dyndbg="file drivers/x.c +p"', "quiet")),
        ('a "b=c d"e  f=""', ("a", '"b=c d"e', 'f=""')),
    ],
)
def test_a_blank_between_quotes_is_part_of_a_word_of_the_kernel_line(text: str, words: tuple[str, ...]) -> None:
    assert parse_words(text) == words
    assert render_cmdline(guest(cmdline=parse_words(text))).endswith(" ".join(("", *words)))


@pytest.mark.parametrize("text", ['dyndbg="file x', 'a b"c', '"a\nb"'])
def test_quotes_without_an_end_and_line_ends_in_them_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match="cannot stand on a kernel command line"):
        render_cmdline(guest(cmdline=parse_words(text)))


def test_a_machine_with_firmware_is_started_by_it() -> None:
    argv = render_argv(guest("q35-uefi"))
    assert argv[argv.index("-machine") + 1] == "q35,accel=tcg,nvdimm=on"
    assert argv[argv.index("-bios") + 1] == "/usr/share/ovmf/OVMF.fd"
    assert argv[argv.index("-kernel") + 1] == "/w/vmlinux"
    assert "-bios" not in render_argv(guest())


def test_a_kernel_line_leaves_room_for_what_the_kernel_and_qemu_put_there() -> None:
    few = initrd_guest("microvm", devices=())
    # The kernel's own words before it, and that of the port's device behind it.
    longest = 2047 - len("noreplace-smp no_timer_check ") - len(" virtio_mmio.device=512@0xfeb00000:23")
    word = "a" * (longest - len(render_cmdline(few)) - 1)
    assert len(render_cmdline(dataclasses.replace(few, cmdline=(word,)))) == longest
    for cut in (dataclasses.replace(few, cmdline=(word + "a",)), initrd_guest("microvm", cmdline=(word,))):
        with pytest.raises(PlanError, match="the kernel line is too long for x86_64: expected"):
            render_cmdline(cut)
    assert len(render_cmdline(initrd_guest("q35", cmdline=("a" * (2017 - len(LINE)),)))) == 2018


@pytest.mark.parametrize("count", range(150, 190, 2))
def test_probes_are_named_only_where_the_line_of_the_guest_that_is_started_has_room(count: int) -> None:
    probes = [f"probe{number:04}" for number in range(count)]
    named = asked(initrd_guest("microvm", devices=USUAL_DEVICES, report=None), probes, [*probes, "other"])
    started = dataclasses.replace(named, report=PurePosixPath("/w/report"), cmdline=(*named.cmdline, *AGENT_CMDLINE))
    assert len(render_cmdline(started)) < 1900
    assert named.cmdline[0] in (f"osbuilder.probes={','.join(probes)}", "osbuilder.probes=all,-other")
