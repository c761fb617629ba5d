"""Compiled objects that are kept between kernel builds: ccache, told which configuration symbols a file depends on.

Every file of a kernel includes the whole configuration (include/generated/autoconf.h), so for a cache of compilations a
changed line would change them all. Kbuild knows better: fixdep (scripts/basic/fixdep.c) finds the symbols that a file
and its headers name, and make compiles again what names a changed one. ccache is given the same knowledge: a command
between it and the compiler (CCACHE_PREFIX) puts, into the list of headers that the compiler wrote, a small file for
each of those symbols, with its value, in place of autoconf.h. The rest is ccache's: in depend mode it takes that list
as what the object was made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CACHE: Final = "ccache"
"""The folder kept between builds, as Job.run names it."""

_FOLDER: Final = f"/cache/{CACHE}"
_SYMBOLS: Final = "/work/symbols"
_UNSET: Final = f"{_FOLDER}/unset-symbols"
_THIS_BUILD: Final = f"{_SYMBOLS}/.this-build"
_PREFIX: Final = "/work/with-symbols"
_STATISTICS: Final = "/work/ccache.log"

ENVIRONMENT: Final[Mapping[str, str]] = {
    "CCACHE_DIR": _FOLDER,
    # The compiler is part of a builder that is unpacked anew: what it is counts, not when it was written.
    "CCACHE_COMPILERCHECK": "content",
    # Headers are taken from the .d files that the build writes anyway: a miss costs no preprocessing of its own.
    "CCACHE_DEPEND": "1",
    # Nothing writes to a source while it is compiled, and the kernel forbids __TIME__ and __DATE__ (-Werror=date-time):
    # looking for either costs more than the rest of ccache.
    "CCACHE_SLOPPINESS": "include_file_ctime,include_file_mtime,time_macros",
    # Remembering the hashes of headers by inode costs more than hashing them (1% of a compilation).
    "CCACHE_NOINODECACHE": "1",
    "CCACHE_MAXSIZE": "5G",
    "CCACHE_STATSLOG": _STATISTICS,
}

SET_UP: Final = f"""\
mkdir {_SYMBOLS}
cat /proc/sys/kernel/random/uuid > {_THIS_BUILD}
# Symbols that were found unset belong to what an object was made of as much as those that are set.
touch {_UNSET}
sort -u {_UNSET} > /work/unset
cp /work/unset {_UNSET}
while read -r name; do
  : > {_SYMBOLS}/"$name"
done < /work/unset
while IFS='=' read -r name value; do
  echo "$value" > {_SYMBOLS}/"${{name#CONFIG_}}"
done < <(grep '^CONFIG_' /work/build/.config)
cat > {_PREFIX} <<'END'
#!/bin/sh
"$@" || exit
for word; do
  case $word in -Wp,-MMD,*) list=${{word#-Wp,-MMD,}} ;; esac
done
[ -n "${{list-}}" ] || exit 0
more=
# ccache does not see files that .incbin takes in.
if grep -qF .incbin $(grep -oE '[^ ]+\\.[cS]( |$)' "$list"); then
  more={_THIS_BUILD}
fi
# What is compiled before fixdep and the configuration are there does not depend on them.
if [ -x scripts/basic/fixdep ] && grep -qF include/generated/autoconf.h "$list"; then
  scripts/basic/fixdep "$list" target command > "$list.fixdep" || exit
  for name in $(sed -n 's:.*(wildcard include/config/\\([^)]*\\)).*:\\1:p' "$list.fixdep"); do
    [ -e {_SYMBOLS}/"$name" ] || {{ : >> {_SYMBOLS}/"$name"; echo "$name" >> {_UNSET}; }}
    more="$more {_SYMBOLS}/$name"
  done
  rm "$list.fixdep"
fi
[ -n "$more" ] || exit 0
{{
  sed 's: include/generated/autoconf\\.h::; s:\\([^\\]\\)$:\\1 \\\\:' "$list"
  echo " $more"
}} > "$list.symbols"
mv "$list.symbols" "$list"
END
chmod +x {_PREFIX}
export CCACHE_PREFIX={_PREFIX}
: > {_STATISTICS}
"""
"""What a script runs when the configuration is in /work/build/.config, before it compiles.

An object that holds another file's bytes (.incbin) is taken for one of this build, and never found again.
"""

REPORT: Final = f"(grep -v '^#' {_STATISTICS} || true) | sort | uniq -c"
"""Prints what `read_results` reads."""


def read_results(log: str) -> dict[str, int]:
    """Return how many compilations ccache served, and how many it ran, from its counted statistics log.

    Its names are those of ccache(1), COUNTERS; a direct or a preprocessed hit is a hit.
    """
    counts = {name: int(count) for count, name in (line.split() for line in log.splitlines())}
    hits = counts.get("direct_cache_hit", 0) + counts.get("preprocessed_cache_hit", 0)
    return {"hits": hits, "misses": counts.get("cache_miss", 0)}
