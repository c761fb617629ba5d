"""A kernel's steps: which there are, what they run, what they deliver and what their keys hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jinja2
import pytest

from osbuilder.arch import ARCHES, parse_arch
from osbuilder.engine.script import lines, render
from osbuilder.errors import ContractError, FragmentError
from osbuilder.kernel import answers
from osbuilder.kernel.build import plan_kernel
from osbuilder.kernel.compile import Compile, cpu_seconds, timestamp
from osbuilder.kernel.configure import Configure, Resolve
from osbuilder.kernel.install import link_names
from osbuilder.kernel.objectcache import read_results
from osbuilder.kernel.resolver import RESOLVER, MakeResolver
from osbuilder.kernel.series import SeriesNames
from osbuilder.kernel.source import KernelLine
from osbuilder.step import Step, key_of, parameters
from osbuilder.store import Artifact
from tests.jobs import Ran, RecordingJob, artifact, refuse
from tests.kernel_configs import write_configs
from tests.kernel_sources import members, pack

X86_64 = parse_arch("x86_64")
LINE = KernelLine(package="linux-source-6.12", suite="trixie")
SOURCE = {"version": "6.12.57", "epoch": 1_700_000_000, "origin": "linux-source-6.12 6.12.57-1"}
KCONFIG = """\
config SLOW
\tbool "Slow"
config FAST
\tbool "Fast"
\tdepends on SLOW
"""


# --- steps ---------------------------------------------------------------------------------------------------------


def write_kernel(root: Path) -> Path:
    """Make a kernel/ folder with one capability."""
    write_configs(root / "kernel" / "configs", {"common/speed.conf": "CONFIG_FAST=y\n"})
    return root / "kernel"


def plan(root: Path, line: KernelLine = LINE, variant: str = "base") -> Step:
    builder, compiler = (Step(name="builder", subject=name, action=Compile.for_arch(X86_64)) for name in ("any", "own"))
    return plan_kernel(
        "debian-6.12",
        line,
        arch=X86_64,
        variant=variant,
        builder=builder,
        compiler=lambda tools: compiler,
        root=root,
        epoch=None,
    )


def idents(step: Step) -> list[str]:
    return [each.ident for each in step.walk() if each.name != "builder"]


def test_a_kernel_is_a_source_a_configuration_and_a_compilation(tmp_path: Path) -> None:
    kernel = plan(write_kernel(tmp_path))
    assert idents(kernel) == [
        "debian-6.12/source",
        "debian-6.12/resolver",
        "debian-6.12-x86_64/answers",
        "debian-6.12-x86_64/resolved",
        "debian-6.12-x86_64/config",
        "debian-6.12-x86_64/kernel",
    ]
    assert {name for name, _ in kernel.dependencies()} == {"source", "config", "builder"}


def test_only_what_asks_the_compiler_runs_where_the_architectures_own_is(tmp_path: Path) -> None:
    steps = [step for step in plan(write_kernel(tmp_path)).walk() if step.builder]
    assert {step.name: step.builder.subject for step in steps if step.builder} == {
        "source": "any",
        "resolver": "any",
        "answers": "own",
        "resolved": "own",
        "kernel": "own",
    }


def test_a_series_of_the_lines_name_puts_its_patches_before_both(tmp_path: Path) -> None:
    root = write_kernel(tmp_path)
    (root / "patches" / "debian-6.12").mkdir(parents=True)
    (root / "patches" / "debian-6.12" / "series").write_text("a.patch\n")
    (root / "patches" / "debian-6.12" / "a.patch").write_text("Origin: own\nSubject: x\n")
    kernel = plan(root)
    assert idents(kernel) == [
        "debian-6.12/source",
        "debian-6.12/patched",
        "debian-6.12/resolver",
        "debian-6.12-x86_64/answers",
        "debian-6.12-x86_64/resolved",
        "debian-6.12-x86_64/config",
        "debian-6.12-x86_64/kernel",
    ]
    resolver = dict(dict(kernel.inputs)["config"].inputs)["resolver"]
    assert dict(kernel.inputs)["source"] is dict(resolver.inputs)["source"]
    other = dataclasses.replace(LINE, patches=SeriesNames(()))
    assert "debian-6.12/patched" not in idents(plan(root, other))


def test_an_edited_fragment_is_another_configuration_but_the_same_source(tmp_path: Path) -> None:
    root = write_kernel(tmp_path)
    before = plan(root)
    (root / "configs" / "common" / "speed.conf").write_text("# CONFIG_FAST is not set\n")
    after = plan(root)
    keys = [
        {step.name: key_of(step.ingredients({name: "0" for name, _ in step.dependencies()})) for step in kernel.walk()}
        for kernel in (before, after)
    ]
    assert [name for name in keys[0] if keys[0][name] != keys[1][name]] == ["resolved", "config"]


# --- configuration -------------------------------------------------------------------------------------------------


def source_artifact(base: Path) -> Artifact:
    folder = base / "source"
    folder.mkdir()
    (folder / "source.tar.zst").touch()
    return artifact(folder, SOURCE)


def resolver_artifact(base: Path) -> Artifact:
    folder = base / "resolver"
    folder.mkdir()
    (folder / RESOLVER).write_bytes(pack(members({"Kconfig": KCONFIG}, top="linux")))
    return artifact(folder, {"version": SOURCE["version"]})


def answers_artifact(base: Path) -> Artifact:
    folder = base / "answers"
    folder.mkdir()
    for name in answers.FILES:
        (folder / name).touch()
    return artifact(folder, {"answers": 0})


def resolve(config: str) -> object:
    def act(ran: Ran) -> None:
        assert not ran.command.network
        assert ran.inputs["requests"].read_text() == "CONFIG_FAST=y\n"
        (ran.output / "config").write_text(config)

    return act


def configure(tmp_path: Path, config: str) -> tuple[RecordingJob, Configure]:
    """Resolve to `config`; return the job that holds it to its contract."""
    action = Configure.of_catalogue(write_kernel(tmp_path) / "configs", X86_64)
    resolver = resolver_artifact(tmp_path)
    inputs = {"answers": answers_artifact(tmp_path), "resolver": resolver}
    resolving = RecordingJob(tmp_path / "resolving", resolve(config), **inputs)  # type: ignore[arg-type]
    facts = Resolve(configure=action).run(resolving)
    assert facts == {"version": "6.12.57"}
    resolved = artifact(resolving.out, facts)
    return RecordingJob(tmp_path / "job", refuse, resolved=resolved, resolver=resolver), action


def test_a_configuration_that_holds_every_request_is_delivered(tmp_path: Path) -> None:
    job, action = configure(tmp_path, "CONFIG_SLOW=y\nCONFIG_FAST=y\n")
    facts = action.run(job)
    assert facts["options_y"] == 2
    assert facts["options_m"] == 0
    assert facts["requests"] == 1
    assert facts["capabilities"] == {"speed": ["fast"]}
    assert {path.name: path.read_text() for path in job.out.iterdir()} == {"config": "CONFIG_SLOW=y\nCONFIG_FAST=y\n"}


def test_a_request_that_did_not_survive_is_a_broken_contract_and_delivers_nothing(tmp_path: Path) -> None:
    job, action = configure(tmp_path, "# CONFIG_SLOW is not set\n")
    with pytest.raises(ContractError, match="FAST=y dropped: depends on SLOW") as broken:
        action.run(job)
    assert broken.value.problems == (
        "kernel/configs/common/speed.conf:1: FAST=y dropped: depends on SLOW, which is n (not requested)",
    )
    assert list(job.out.iterdir()) == []


def test_a_kernel_is_compiled_of_what_holds_its_contract_alone(tmp_path: Path) -> None:
    kernel = plan(write_kernel(tmp_path))
    config = dict(kernel.inputs)["config"]
    assert isinstance(config.action, Configure)
    assert dict(config.inputs)["resolved"].action == Resolve(configure=config.action)


def test_the_toolchain_is_asked_by_the_compilers_name_and_outside_the_source() -> None:
    text = "\n".join(answers.AskToolchain.for_arch(X86_64).describe())
    assert "make -C /work/linux O=/work/build ARCH=x86 CROSS_COMPILE=x86_64-linux-gnu- allnoconfig" in text
    assert 'ln -s /work/tool /work/tools/x86_64-linux-gnu-"$tool"' in text


def test_how_many_answers_were_written_down_is_told(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        assert not ran.command.network
        assert ran.inputs["resolver"].name == RESOLVER
        (ran.output / answers.ANSWERS).write_bytes(b"which?\0this\0and?\0\0")

    job = RecordingJob(tmp_path / "job", act, resolver=resolver_artifact(tmp_path))
    assert answers.AskToolchain.for_arch(X86_64).run(job) == {"answers": 2}


def test_what_resolving_takes_of_a_source_is_dated_by_the_source(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        assert not ran.command.network
        assert ran.inputs["source"].name == "source.tar.zst"
        (ran.output / RESOLVER).touch()

    job = RecordingJob(tmp_path / "job", act, source=source_artifact(tmp_path))
    assert MakeResolver().run(job) == {"version": "6.12.57"}
    assert "--mtime=@1700000000\n" in job.ran[0].script


def test_a_fragment_that_nobody_names_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    root = write_kernel(tmp_path)
    (root / "configs" / "common" / "stray.conf").write_text("CONFIG_X=y\n")
    with pytest.raises(FragmentError, match="stray"):
        plan(root)


# --- compilation ---------------------------------------------------------------------------------------------------


def config_artifact(base: Path) -> Artifact:
    folder = base / "config"
    folder.mkdir()
    (folder / "config").write_text("CONFIG_FAST=y\n")
    return artifact(folder, {"options_y": 806, "options_m": 0})


SIZES = """\
   text	   data	    bss	    dec	    hex	filename
     67	      3	    400	    470	    1d6	fs/ext4/inode.o (ex vmlinux.a)
     33	      0	      0	     33	     21	fs/ext4/dir/x.o (ex vmlinux.a)
      5	      0	      0	      5	      5	mm/slub.o (ex vmlinux.a)
"""


def built(ran: Ran) -> None:
    for name in ("vmlinux", "vmlinuz", "config", "System.map"):
        (ran.output / name).write_text(name)
    (ran.output / "facts").mkdir()
    (ran.output / "facts" / "release").write_text("6.12.57\n")
    (ran.output / "facts" / "sizes").write_text(SIZES)
    (ran.output / "facts" / "times").write_text("0m0.010s 0m0.020s\n15m2.500s 1m0.250s\n")
    (ran.output / "facts" / "ccache").write_text(
        "      3 cache_miss\n      7 direct_cache_hit\n      9 local_storage_hit\n"
    )


def test_a_kernel_is_delivered_with_what_its_build_cost(tmp_path: Path) -> None:
    job = RecordingJob(tmp_path / "job", built, source=source_artifact(tmp_path), config=config_artifact(tmp_path))
    assert Compile.for_arch(X86_64).run(job) == {
        "version": "6.12.57",
        "origin": "linux-source-6.12 6.12.57-1",
        "release": "6.12.57",
        "epoch": 1_700_000_000,
        "options_y": 806,
        "options_m": 0,
        "subsystems_bytes": {"fs/ext4": 503, "mm": 5},
        "cpu_s": 962.75,
        "ccache": {"hits": 7, "misses": 3},
    }
    assert sorted(path.name for path in job.out.iterdir()) == ["System.map", "config", "vmlinux", "vmlinuz"]


def test_what_a_debugger_wants_is_kept_where_a_variant_says_so(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        built(ran)
        for name in ("vmlinux.debug", "gdb-scripts.tar"):
            (ran.output / name).write_text(name)

    job = RecordingJob(tmp_path / "job", act, source=source_artifact(tmp_path), config=config_artifact(tmp_path))
    action = Compile.for_arch(X86_64, debug_info=True)
    action.run(job)
    assert {"vmlinux.debug", "gdb-scripts.tar"} <= {path.name for path in job.out.iterdir()}
    assert "cp /work/build/vmlinux /out/vmlinux.debug" in action.describe()
    assert not any("vmlinux.debug" in line for line in Compile.for_arch(X86_64).describe())


def test_a_variant_has_its_own_names_its_tools_and_the_sources_of_all(tmp_path: Path) -> None:
    declared = "{purpose: p, consumers: [anyone], tools: [dwarves], debug-info: true}\n"
    root = write_kernel(tmp_path)
    write_configs(root / "configs", {"variant/debug/variant.yaml": declared, "common/speed.conf": "CONFIG_FAST=y\n"})

    def builder(tools: tuple[str, ...]) -> Step:
        return Step(name="builder", subject="-".join(("b", *tools)), action=Compile.for_arch(X86_64))

    kernel = plan_kernel(
        "debian-6.12",
        LINE,
        arch=X86_64,
        variant="debug",
        builder=builder(()),
        compiler=builder,
        root=root,
        epoch=None,
    )
    assert idents(kernel) == [
        "debian-6.12/source",
        "debian-6.12/resolver",
        "debian-6.12-x86_64-dwarves/answers",
        "debian-6.12-x86_64-debug/resolved",
        "debian-6.12-x86_64-debug/config",
        "debian-6.12-x86_64-debug/kernel",
    ]
    assert {step.ident: step.builder.subject for step in kernel.walk() if step.builder} == {
        "debian-6.12/source": "b",
        "debian-6.12/resolver": "b",
        "debian-6.12-x86_64-dwarves/answers": "b-dwarves",
        "debian-6.12-x86_64-debug/resolved": "b-dwarves",
        "debian-6.12-x86_64-debug/kernel": "b-dwarves",
    }
    assert isinstance(kernel.action, Compile)
    assert kernel.action.debug_info


def test_who_when_and_where_a_kernel_was_built_is_fixed(tmp_path: Path) -> None:
    job = RecordingJob(tmp_path / "job", built, source=source_artifact(tmp_path), config=config_artifact(tmp_path))
    Compile.for_arch(X86_64, epoch=1_600_000_000).run(job)
    (ran,) = job.ran
    assert ran.command.argv == ("bash", "/in/script", "3")
    assert ran.caches == ("ccache",)
    assert not ran.command.network
    assert not ran.command.root
    env = dict(ran.command.env)
    assert env["KBUILD_BUILD_TIMESTAMP"] == "Sun Sep 13 12:26:40 UTC 2020"
    assert (env["KBUILD_BUILD_USER"], env["KBUILD_BUILD_HOST"], env["KBUILD_BUILD_VERSION"]) == (
        "osbuilder",
        "osbuilder",
        "1",
    )
    assert env["LOCALVERSION"] == ""
    assert str(tmp_path) not in ran.script


def test_how_many_processes_compile_is_not_part_of_the_key() -> None:
    assert "jobs" not in parameters(Compile.for_arch(X86_64))
    assert 'kmake -j"$1" vmlinux bzImage' in Compile.for_arch(X86_64).describe()


def test_only_the_elf_file_is_stripped() -> None:
    x86 = Compile.for_arch(X86_64).describe()
    assert "x86_64-linux-gnu-strip --strip-all -o /out/vmlinux /work/build/vmlinux" in x86
    assert "cp /work/build/arch/x86/boot/bzImage /out/vmlinuz" in x86
    image = Compile.for_arch(parse_arch("aarch64")).describe()
    assert "cp /work/build/arch/arm64/boot/Image /out/vmlinux" in image
    assert not any("strip --strip-all" in line for line in image)


def test_a_configuration_that_the_whole_source_resolves_differently_is_refused(tmp_path: Path) -> None:
    def act(ran: Ran) -> None:
        (ran.output / "config.changed").write_text("3d2\n< CONFIG_FAST=y\n")

    job = RecordingJob(tmp_path / "job", act, source=source_artifact(tmp_path), config=config_artifact(tmp_path))
    with pytest.raises(ContractError, match="resolves differently in the whole source") as caught:
        Compile.for_arch(X86_64).run(job)
    assert "< CONFIG_FAST=y" in caught.value.message
    assert list(job.out.iterdir()) == []


@pytest.mark.parametrize("arch", ARCHES.values(), ids=lambda arch: arch.name)
def test_every_architecture_can_be_planned(arch: object) -> None:
    assert "make" in "\n".join(Compile.for_arch(arch).describe())  # type: ignore[arg-type]


def test_a_timestamp_is_what_date_prints() -> None:
    assert timestamp(0) == "Thu Jan  1 00:00:00 UTC 1970"
    assert timestamp(1_700_000_000) == "Tue Nov 14 22:13:20 UTC 2023"


def test_times_and_cache_counts_are_read_as_their_tools_print_them() -> None:
    assert cpu_seconds("0m9.999s 0m9.999s\n0m1.250s 2m0.500s\n") == 121.75
    assert read_results("") == {"hits": 0, "misses": 0}
    assert read_results("  2 preprocessed_cache_hit\n  1 direct_cache_hit\n") == {"hits": 3, "misses": 0}


# --- names and scripts ---------------------------------------------------------------------------------------------


def test_kernels_are_called_what_their_users_look_for() -> None:
    assert link_names("6.12.57", "0123456789abcdef") == (
        ("vmlinux", "vmlinux-6.12.57-0123456789ab", "vmlinux.container"),
        ("vmlinuz", "vmlinuz-6.12.57-0123456789ab", "vmlinuz.container"),
        ("config", "config-6.12.57-0123456789ab", None),
        ("System.map", "System.map-6.12.57-0123456789ab", None),
    )
    debug = {"gdb-scripts.tar", "vmlinux.debug", "System.map", "config", "vmlinuz", "vmlinux"}
    assert [names[1] for names in link_names("6.12.57", "0" * 64, "-debug", files=debug)[4:]] == [
        "vmlinux.debug-6.12.57-000000000000-debug",
        "gdb-scripts.tar-6.12.57-000000000000-debug",
    ]
    assert link_names("6.12.57", "0" * 64, "-debug")[1] == (
        "vmlinuz",
        "vmlinuz-6.12.57-000000000000-debug",
        "vmlinuz-debug.container",
    )


def test_a_script_stops_at_its_first_failure_and_its_values_are_words() -> None:
    script = render("run {{ one | sh }} {{ many | sh }}\n", one="a b", many=("$(x)", "y"))
    assert script == "set -euo pipefail\nrun 'a b' '$(x)' y\n"
    assert lines(script) == ("set -euo pipefail", "run 'a b' '$(x)' y")


def test_a_name_without_a_value_is_an_error_of_the_script() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render("{{ missing }}")
