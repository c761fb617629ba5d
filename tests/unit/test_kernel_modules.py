"""Kernels with modules: what they deliver besides, how modules are signed, and where a key never is."""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import pytest

from osbuilder.arch import parse_arch
from osbuilder.errors import FragmentError, PlanError, UsageError, VerificationError
from osbuilder.kernel.build import TRUST, compiled, plan_kernel
from osbuilder.kernel.compile import Compile
from osbuilder.kernel.conditions import KernelVersion
from osbuilder.kernel.configure import Configure
from osbuilder.kernel.headers import PackHeaders
from osbuilder.kernel.install import link_names
from osbuilder.kernel.modules import TRUSTED, CompileWithModules
from osbuilder.kernel.packageformat import PackageFormat
from osbuilder.kernel.signing import SigningKey, SignModules
from osbuilder.kernel.source import KernelLine
from osbuilder.plan import Planner
from osbuilder.request import HeadersRequest, KernelRequest
from osbuilder.settings import load_settings
from osbuilder.show import plan_text, settings_text
from osbuilder.step import Step, key_of, parameters
from osbuilder.store import Artifact
from tests.conftest import ROOT
from tests.jobs import Ran, RecordingJob, artifact, refuse
from tests.kernel_configs import write_configs
from tests.unit.test_kernel_build import built, config_artifact, source_artifact

X86_64 = parse_arch("x86_64")
RSA = bytes.fromhex("06092a864886f70d010101")
PRIVATE = "TGV0IG5vYm9keSByZWFkIHRoaXM="
DECLARED = "{purpose: p, consumers: [anyone], tools: [kmod], modules: true}\n"


def pem(path: Path, *, certificate: bytes = b"0" + RSA, kind: str = "PRIVATE KEY", key: str = PRIVATE) -> Path:
    """Write a file with a certificate and a private key, as far as they are looked at."""
    body = base64.encodebytes(certificate).decode()
    path.write_text(
        f"-----BEGIN {kind}-----\n{key}\n-----END {kind}-----\n"
        f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n"
    )
    return path


def plan(root: Path, signing: SigningKey | None = None) -> Step:
    write_configs(root / "configs", {"variant/gpu/variant.yaml": DECLARED, "common/speed.conf": "CONFIG_FAST=y\n"})
    builder = Step(name="builder", subject="any", action=Compile.for_arch(X86_64))
    return plan_kernel(
        "line",
        KernelLine(package="linux-source-6.12", suite="trixie"),
        arch=X86_64,
        variant="gpu",
        builder=builder,
        compiler=lambda _: builder,
        root=root,
        epoch=None,
        signing=signing,
    )


def planner(tmp_path: Path, **settings: str) -> Planner:
    return Planner(ROOT, load_settings(settings, environment={"HOME": "/nowhere"}, folder=tmp_path))


# --- compiling -----------------------------------------------------------------------------------------------------


def with_modules(ran: Ran) -> None:
    built(ran)
    for name in ("modules.tar.zst", "headers.tar.zst"):
        (ran.output / name).write_text(name)
    (ran.output / "facts/modules").write_text("kernel/drivers/a b.ko 7\nkernel/fs/c.ko 100\n")


def test_modules_and_headers_are_delivered_beside_the_kernel_with_their_sizes(tmp_path: Path) -> None:
    job = RecordingJob(
        tmp_path / "job", with_modules, source=source_artifact(tmp_path), config=config_artifact(tmp_path)
    )
    facts = CompileWithModules.of_kernel(Compile.for_arch(X86_64), certificate=None).run(job)
    assert facts["modules_bytes"] == {"kernel/drivers/a b.ko": 7, "kernel/fs/c.ko": 100}
    assert facts["release"] == "6.12.57"
    files = sorted(path.name for path in job.out.iterdir())
    assert files == ["System.map", "config", "headers.tar.zst", "modules.tar.zst", "vmlinux", "vmlinuz"]
    assert [names[1:] for names in link_names("6.12.57", "0" * 64, "-gpu", files=files)[4:]] == [
        ("modules-6.12.57-000000000000-gpu.tar.zst", "modules-gpu.tar.zst")
    ]


def test_modules_are_made_after_the_very_script_that_makes_a_kernel_without_them() -> None:
    kernel = Compile.for_arch(X86_64)
    script = "\n".join(CompileWithModules.of_kernel(kernel, certificate=None).describe())
    assert script.startswith("\n".join(kernel.describe()))
    assert "INSTALL_MOD_STRIP=1 modules_install" in script
    assert TRUSTED not in script


def test_a_kernel_takes_the_certificate_before_it_is_compiled() -> None:
    action = CompileWithModules.of_kernel(Compile.for_arch(X86_64), certificate="-----BEGIN CERTIFICATE-----")
    script = action.describe()
    assert f"cat > {TRUSTED} <<'END'" in script
    assert script.index("-----BEGIN CERTIFICATE-----") < script.index('kmake -j"$1" vmlinux bzImage')


# --- keys ----------------------------------------------------------------------------------------------------------


def test_with_a_key_a_last_step_signs_and_the_kernel_knows_the_certificate(tmp_path: Path) -> None:
    key = SigningKey.of_path(pem(tmp_path / "key.pem"))
    signed = plan(tmp_path / "kernel", key)
    assert [step.ident for step in signed.walk() if step.name != "builder"] == [
        "line/source",
        "line/resolver",
        "line-x86_64-kmod/answers",
        "line-x86_64-gpu/resolved",
        "line-x86_64-gpu/config",
        "line-x86_64-gpu/kernel",
        "line-x86_64-gpu/signed",
    ]
    kernel = compiled(signed)
    assert isinstance(kernel.action, CompileWithModules)
    assert kernel.action.certificate == key.certificate
    config = dict(kernel.inputs)["config"].action
    assert isinstance(config, Configure)
    assert config.besides == (f'SYSTEM_TRUSTED_KEYS="{TRUSTED}"',)
    plain = plan(tmp_path / "kernel")
    assert (plain.name, plain.action) == (
        "kernel",
        CompileWithModules.of_kernel(Compile.for_arch(X86_64), certificate=None),
    )


def test_nothing_of_a_private_key_is_in_plans_keys_or_settings(tmp_path: Path) -> None:
    path = pem(tmp_path / "key.pem", kind="ENCRYPTED PRIVATE KEY")
    wanted = planner(tmp_path, module_signing_key=str(path), module_signing_pin="s3cret")
    step = wanted.plan(KernelRequest(arch="x86_64", variant="nvidia-gpu"))
    told = plan_text(step.walk(), {each.ident: None for each in step.walk()}) + settings_text(wanted.settings)
    told += json.dumps([parameters(each.action) for each in step.walk()]) + repr(step) + repr(wanted.settings)
    assert "BEGIN CERTIFICATE" in told
    assert PRIVATE not in told
    assert "s3cret" not in told
    assert "***" in settings_text(wanted.settings)


def test_another_private_part_with_the_same_certificate_is_the_same_key_of_the_step(tmp_path: Path) -> None:
    steps = []
    for name, key, pin in (("a", PRIVATE, None), ("b", "T3RoZXI=", "1234")):
        signing = SigningKey.of_path(pem(tmp_path / name, key=key), pin=pin)
        steps.append(Step(name="signed", subject="s", action=SignModules(key=signing)))
    assert key_of(steps[0].ingredients({})) == key_of(steps[1].ingredients({}))


def test_a_variant_without_modules_is_not_signed(tmp_path: Path) -> None:
    wanted = planner(tmp_path, module_signing_key=str(pem(tmp_path / "key.pem")))
    step = wanted.plan(KernelRequest(arch="x86_64"))
    assert (step.name, type(step.action)) == ("kernel", Compile)


def test_a_key_that_is_not_there_is_no_matter_to_a_variant_without_modules(tmp_path: Path) -> None:
    wanted = planner(tmp_path, module_signing_key=str(tmp_path / "gone.pem"))
    assert wanted.plan(KernelRequest(arch="x86_64")).name == "kernel"
    with pytest.raises(UsageError, match="expected a file, got no such file"):
        wanted.plan(KernelRequest(arch="x86_64", variant="nvidia-gpu"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a file, got no such file or directory"),
        ("nothing", r"expected one certificate and one private key \(PEM\), got 0 and 0"),
        ("-----BEGIN PRIVATE KEY-----\n", r"expected one certificate and one private key \(PEM\), got 0 and 1"),
        ("\xff", "expected PEM, which is text, got something else"),
    ],
)
def test_a_file_that_cannot_sign_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "key.pem"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=rf"setting module_signing_key \({path}\): {message}"):
        SigningKey.of_path(path)


def test_a_key_whose_signatures_are_random_and_one_that_is_closed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected an RSA key, got another one"):
        SigningKey.of_path(pem(tmp_path / "ec.pem", certificate=b"0" * 40))
    closed = pem(tmp_path / "closed.pem", kind="ENCRYPTED PRIVATE KEY")
    with pytest.raises(UsageError, match="expected the PIN of a private key that is encrypted, got none") as caught:
        SigningKey.of_path(closed)
    assert caught.value.hint == "Set KBUILD_SIGN_PIN."
    older = pem(tmp_path / "older.pem", kind="RSA PRIVATE KEY", key=f"Proc-Type: 4,ENCRYPTED\n\n{PRIVATE}")
    with pytest.raises(UsageError, match="expected the PIN"):
        SigningKey.of_path(older)
    assert SigningKey.of_path(closed, pin="x").certificate == SigningKey.of_path(older, pin="y").certificate


# --- what has to be asked for --------------------------------------------------------------------------------------


def configure(root: Path, declared: str, fragment: str) -> Configure:
    own = declared.rstrip("}\n") + ", capabilities: {own: {purpose: p, unproven: u}}}\n"
    files = {"variant/gpu/variant.yaml": own, "variant/gpu/common/own.conf": fragment}
    return Configure.of_catalogue(
        write_configs(root / "configs", {"common/speed.conf": "CONFIG_FAST=y\n", **files}), X86_64, "gpu"
    )


def test_a_variant_with_modules_and_without_depmod_is_refused_when_it_is_planned(tmp_path: Path) -> None:
    with pytest.raises(FragmentError, match="kernel variant gpu has modules, but no depmod") as caught:
        configure(tmp_path, DECLARED.replace("tools: [kmod], ", ""), "CONFIG_MODULES=y\nCONFIG_X=m\n")
    assert "Add kmod to the tools of kernel/configs/variant/gpu/variant.yaml" in caught.value.hint


@pytest.mark.parametrize(
    ("fragment", "signed", "missing"),
    [
        ("CONFIG_X=m\n", False, ["CONFIG_MODULES=y"]),
        ("CONFIG_MODULES=n\nCONFIG_X=m\n", False, ["CONFIG_MODULES=y"]),
        ("CONFIG_MODULES=y\n", False, ["any option =m"]),
        ("CONFIG_X=y\n", True, ["CONFIG_MODULES=y", "any option =m", "CONFIG_MODULE_SIG=y"]),
        ("CONFIG_MODULES=y\nCONFIG_X=m\n", True, ["CONFIG_MODULE_SIG=y"]),
    ],
)
def test_what_a_kernel_with_modules_lacks_is_said_before_it_is_resolved(
    tmp_path: Path, fragment: str, signed: bool, missing: list[str]
) -> None:
    action = configure(tmp_path, DECLARED, fragment).asking([TRUST] if signed else [])
    with pytest.raises(FragmentError) as caught:
        action.selection(KernelVersion.parse("6.12"))
    first, *lines = caught.value.message.splitlines()
    assert first == "kernel variant gpu has modules, but does not ask for"
    assert [line.split(":")[0].split(" (")[0] for line in lines] == missing


def test_a_kernel_with_modules_that_asks_for_all_that_it_takes_is_selected(tmp_path: Path) -> None:
    action = configure(tmp_path, DECLARED, "CONFIG_MODULES=y\nCONFIG_MODULE_SIG=y\nCONFIG_X=m\n").asking([TRUST])
    assert TRUST in action.selection(KernelVersion.parse("6.12")).requests


@pytest.mark.parametrize("symbol", ["MODULE_COMPRESS", "MODULE_COMPRESS_ZSTD"])
def test_modules_that_would_be_compressed_before_they_are_signed_are_refused(tmp_path: Path, symbol: str) -> None:
    text = f"CONFIG_MODULES=y\nCONFIG_X=m\nCONFIG_{symbol}=y\n"
    with pytest.raises(FragmentError, match=rf"asks for compressed modules \({symbol}=y in .*own\.conf:3\)"):
        configure(tmp_path, DECLARED, text).selection(KernelVersion.parse("6.12"))
    text = text.replace(symbol, "MODULE_COMPRESS_NONE")  # what 6.1 has as a choice of its own
    assert configure(tmp_path, DECLARED, text).selection(KernelVersion.parse("6.1"))


def test_modules_of_a_variant_that_has_none_are_refused(tmp_path: Path) -> None:
    plain = DECLARED.replace(", modules: true", "")
    words = r"asks for modules \(X=m in kernel/configs/variant/gpu/common/own\.conf:2\)"
    with pytest.raises(FragmentError, match=words) as caught:
        configure(tmp_path, plain, "CONFIG_MODULES=y\nCONFIG_X=m\n").selection(KernelVersion.parse("6.12"))
    assert "modules: true" in caught.value.hint
    # The JIT compiler of older kernels takes MODULES, and no module.
    assert configure(tmp_path, plain, "CONFIG_MODULES=y\n").selection(KernelVersion.parse("6.1"))


def test_a_tool_that_there_is_not_is_to_be_corrected_in_the_variant() -> None:
    steps = Planner(ROOT, load_settings({}, environment={"HOME": "/nowhere"}, folder=ROOT / "nowhere"))
    compilers = {
        step.subject: step.packages_hint
        for variant in ("base", "debug")
        for step in steps.plan(KernelRequest(arch="x86_64", variant=variant)).walk()
        if step.name == "builder"
    }
    assert compilers["compiler"] == "Correct `packages` of the builder compiler in versions.yaml."
    assert compilers["compiler-dwarves-python3-minimal"] == (
        "Correct `tools: [dwarves, python3-minimal]` in the variant.yaml of the kernel, "
        "or `packages` of the builder compiler in versions.yaml."
    )


# --- signing -------------------------------------------------------------------------------------------------------


def kernel_artifact(base: Path) -> Artifact:
    base.mkdir()
    for name in ("vmlinux", "config", "modules.tar.zst", "headers.tar.zst"):
        (base / name).write_text(name)
    return artifact(base, {"release": "6.12.57-gpu", "version": "6.12.57", "epoch": 1_700_000_000})


def test_the_key_is_there_for_the_script_that_signs_and_gone_after_it(tmp_path: Path) -> None:
    key = SigningKey.of_path(pem(tmp_path / "key.pem"), pin="1234")

    def act(ran: Ran) -> None:
        assert PRIVATE in ran.inputs["key"].read_text()
        assert ran.inputs["pin"].read_text() == "1234"
        assert ran.inputs["key"].parent.stat().st_mode & 0o777 == 0o700
        assert "PIN" not in dict(ran.command.env)
        (ran.output / "modules.tar.zst").write_text("signed")

    job = RecordingJob(tmp_path / "job", act, kernel=kernel_artifact(tmp_path / "kernel"))
    facts = SignModules(key=key).run(job)
    assert facts["modules_signed"]
    assert {path.name: path.read_text() for path in job.out.iterdir()} == {
        "vmlinux": "vmlinux",
        "config": "config",
        "headers.tar.zst": "headers.tar.zst",
        "modules.tar.zst": "signed",
    }
    assert not any(PRIVATE in path.read_text() for path in job.work.rglob("*") if path.is_file())


def test_a_key_that_changed_after_planning_is_refused(tmp_path: Path) -> None:
    key = SigningKey.of_path(pem(tmp_path / "key.pem"))
    pem(tmp_path / "key.pem", certificate=b"1" + RSA)
    job = RecordingJob(tmp_path / "job", refuse, kernel=kernel_artifact(tmp_path / "kernel"))
    with pytest.raises(VerificationError, match=r"key\.pem changed during the build"):
        SignModules(key=key).run(job)


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_", "arch", "file"),
    [
        (PackageFormat.DEB, "aarch64", "linux-headers-6.12.57-gpu_6.12.57-1_arm64.deb"),
        (PackageFormat.RPM, "aarch64", "kernel-devel-6.12.57_gpu-1.aarch64.rpm"),
        (PackageFormat.TAR, "x86_64", "linux-headers-6.12.57-gpu.x86_64.tar.zst"),
    ],
)
def test_headers_are_called_as_kbuild_calls_them(tmp_path: Path, format_: PackageFormat, arch: str, file: str) -> None:
    def act(ran: Ran) -> None:
        assert ran.command.argv[2:] == ("6.12.57-gpu", "6.12.57")
        assert dict(ran.command.env) == {"SOURCE_DATE_EPOCH": "1700000000"}
        (ran.output / "headers").write_text("packed")

    job = RecordingJob(tmp_path / "job", act, kernel=kernel_artifact(tmp_path / "kernel"))
    facts = PackHeaders.for_arch(format_, parse_arch(arch)).run(job)
    assert facts["file"] == file
    assert (job.out / "headers").read_text() == ("headers.tar.zst" if format_ is PackageFormat.TAR else "packed")


def test_a_kernel_without_modules_has_no_headers_to_build_any_with(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="kernel variant base has no modules, so that nothing is built") as caught:
        planner(tmp_path).plan(HeadersRequest(kernel=KernelRequest(arch="x86_64")))
    assert caught.value.hint == "Name one that has: --variant nvidia-gpu."
    request = HeadersRequest(kernel=KernelRequest(arch="x86_64", variant="nvidia-gpu"), format=PackageFormat.RPM)
    step = planner(tmp_path).plan(request)
    assert (step.ident, dict(step.inputs)["kernel"].name) == ("debian-6.12-x86_64-nvidia-gpu/headers-rpm", "kernel")
    assert step.builder
    assert step.builder.subject == "compiler-rpm"
    assert dataclasses.asdict(step.action) == {"format": PackageFormat.RPM, "arch": "x86_64"}  # type: ignore[call-overload]
