"""What a kernel's Kconfig files ask the toolchain, asked once: the answers depend on source and builder only.

A resolution starts a shell for each of some hundred questions ($(cc-option ...), $(ld-option ...), $(shell ...)), most
of which start a compiler: nearly all of what it takes. They are asked while the files are parsed, so that no request
can change them. A library put before conf (LD_PRELOAD) stands in for popen(3), through which conf asks: it knows the
answers that were written down, word for word by question, and asks for itself what is not among them.

Only what is certain is written down. Whether a tool refused an option or died of a full disk cannot be told from a
question's `n`, so a question counts only if it started a tool and each one that it started succeeded; the others, which
a compiler refuses before it does any work, are asked again every time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from osbuilder.engine.script import lines, render, run_script
from osbuilder.kernel import toolchain
from osbuilder.kernel.resolver import RESOLVER
from osbuilder.step import NOT_IN_KEY

if TYPE_CHECKING:
    from osbuilder.arch import Arch
    from osbuilder.step import Job

ANSWERS: Final = "answers"
"""Questions and answers, each ended by NUL."""
ENVIRONMENT: Final = "environment"
"""What make gives conf in its environment, as env -0 prints it, but for the KCONFIG_ variables."""
LIBRARY: Final = "answers.so"

FILES: Final = (ANSWERS, ENVIRONMENT, LIBRARY)

TOOLS: Final = ("ar", "as", "gcc", "ld", "nm", "objcopy", "objdump", "readelf", "strip")
"""What compiles for the guest, by its names behind the architecture's triplet."""

# popen gives a stream of memory, whoever answered, and pclose the status that the question's shell exited with.
_LIBRARY: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *answers_path, *tools_path;
static char *known;
static size_t known_size;
static int status;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static char *read_all(FILE *from, size_t *size)
{
	char *text;
	FILE *to = open_memstream(&text, size);

	for (int c; (c = getc(from)) != EOF;)
		putc(c, to);
	if (ferror(from) || fclose(to))
		fail("answers: read");
	return text;
}

__attribute__((constructor)) static void load(void)
{
	FILE *file;

	answers_path = getenv("ANSWERS");
	tools_path = getenv("ANSWERS_TOOLS");
	file = fopen(answers_path, "r");
	if (!file)
		fail("answers: open");
	known = read_all(file, &known_size);
	fclose(file);
	/* A question has the environment that make made. */
	unsetenv("LD_PRELOAD");
	unsetenv("ANSWERS");
}

/* The tools of a question wrote ? as they started and ! when they had succeeded. */
static int certain(void)
{
	int started = 0, succeeded = 0;
	FILE *file = tools_path ? fopen(tools_path, "r") : NULL;

	if (!file)
		return 0;
	for (int c; (c = getc(file)) != EOF;) {
		started += c == '?';
		succeeded += c == '!';
	}
	fclose(file);
	if (remove(tools_path))
		fail("answers: tools");
	return started && started == succeeded;
}

static void write_down(const char *question, const char *answer)
{
	size_t length = strlen(question) + 1 + strlen(answer) + 1;
	FILE *file = fopen(answers_path, "a");

	known = realloc(known, known_size + length);
	if (!file || !known)
		fail("answers: write");
	strcpy(known + known_size, question);
	strcpy(known + known_size + strlen(question) + 1, answer);
	if (fwrite(known + known_size, 1, length, file) != length || fclose(file))
		fail("answers: write");
	known_size += length;
}

FILE *popen(const char *question, const char *mode)
{
	FILE *(*ask)(const char *, const char *) = dlsym(RTLD_NEXT, "popen");
	int (*end)(FILE *) = dlsym(RTLD_NEXT, "pclose");
	char *answer, *at = known;
	size_t size;
	FILE *said;

	while (at < known + known_size) {
		answer = at + strlen(at) + 1;
		if (!strcmp(at, question)) {
			status = 0;
			return fmemopen(answer, strlen(answer), "r");
		}
		at = answer + strlen(answer) + 1;
	}
	said = ask(question, mode);
	if (!said)
		return NULL;
	answer = read_all(said, &size);
	status = end(said);
	if (certain() && !status && strlen(answer) == size)
		write_down(question, answer);
	return fmemopen(answer, size, "r");
}

int pclose(FILE *stream)
{
	fclose(stream);
	return status;
}
"""

_ASK: Final = """\
{{ look_for_tools }}
mkdir /work/tools
tar --extract --file=/in/resolver --directory=/work
cat > /work/answers.c <<'END'
{{ library_source }}
END
gcc -O2 -Wall -Werror -shared -fPIC -o /out/{{ library }} /work/answers.c
: > /out/{{ answers }}
cat > /work/tool <<'END'
#!/bin/sh
PATH=${PATH#*:}
printf '?' >> "$ANSWERS_TOOLS"
"${0##*/}" "$@" || exit
printf '!' >> "$ANSWERS_TOOLS"
END
for tool in {{ tools | sh }}; do
  ln -s /work/tool /work/tools/{{ cross_compile | sh }}"$tool"
done
cd /work/build/scripts/kconfig
mv conf /work/conf
cat > conf <<'END'
#!/bin/sh
grep -zv '^KCONFIG_' /proc/self/environ > /out/{{ environment }}
export LD_PRELOAD=/out/{{ library }} ANSWERS=/out/{{ answers }} ANSWERS_TOOLS=/tmp/tools PATH="/work/tools:$PATH"
exec /work/conf "$@"
END
chmod +x conf /work/tool
make -C /work/linux O=/work/build ARCH={{ arch | sh }} CROSS_COMPILE={{ cross_compile | sh }} allnoconfig
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskToolchain:
    """Makes FILES from the input `resolver` (see resolver.MakeResolver). Make one with `for_arch`.

    `arch` and `packages`, which have its compiler where it is not the host's own, are for the error without one.
    """

    kernel_arch: str
    cross_compile: str
    arch: str = dataclasses.field(metadata=NOT_IN_KEY)
    packages: tuple[str, ...] = dataclasses.field(metadata=NOT_IN_KEY)

    @classmethod
    def for_arch(cls, arch: Arch) -> AskToolchain:
        """Take from an architecture's row what names its compiler and its Kconfig files."""
        return cls(
            kernel_arch=arch.kernel, cross_compile=f"{arch.triplet}-", arch=arch.name, packages=arch.cross_packages
        )

    def describe(self) -> tuple[str, ...]:
        return lines(self._script())

    def run(self, job: Job) -> Mapping[str, Any]:
        run_script(job, self._script(), inputs={"resolver": job.inputs["resolver"].path(RESOLVER)})
        toolchain.check(
            job,
            what_for=f"no kernel for {self.arch} is compiled",
            hint="In versions.yaml, give builders.compiler the line `for-guest: cross-compiler`, which adds "
            f"{' and '.join(self.packages)} where {self.arch} is not the host's own, or add to its packages what has "
            "them.",
        )
        return {"answers": (job.out / ANSWERS).read_bytes().count(b"\0") // 2}

    def _script(self) -> str:
        return render(
            _ASK,
            look_for_tools=toolchain.look_for(f"{self.cross_compile}{tool}" for tool in TOOLS),
            arch=self.kernel_arch,
            cross_compile=self.cross_compile,
            tools=TOOLS,
            library_source=_LIBRARY.strip(),
            answers=ANSWERS,
            environment=ENVIRONMENT,
            library=LIBRARY,
        )
