"""What a kernel with modules has to ask for, looked at before anything is resolved, let alone compiled.

Without MODULES=y nothing becomes a module, without one =m and depmod(8) there are no lists that modules are found by,
and without MODULE_SIG=y nothing would look at signatures: each would fail at the end of a compilation otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from osbuilder.errors import FragmentError
from osbuilder.kernel.placement import CONFIGS, declaration

if TYPE_CHECKING:
    from osbuilder.kernel.catalogue import Variant
    from osbuilder.kernel.fragments import Request

SETTING: Final = "setting module_signing_key"
"""What asks for the certificate that modules are signed for, where there is a key."""

_DEPMOD: Final = "kmod"
_COMPRESSION: Final = re.compile("MODULE_COMPRESS(_(?!NONE)[A-Z0-9]+)?")  # before 6.13 one of four, _NONE among them


def check_tools(name: str, variant: Variant) -> None:
    """Refuse a variant with modules whose builder has no depmod. Raises FragmentError."""
    if variant.modules and _DEPMOD not in variant.tools:
        raise FragmentError(
            f"kernel variant {name} has modules, but no depmod to make the lists that they are found by",
            hint=f"Add {_DEPMOD} to the tools of {declaration(name)}, and libssl-dev if they are to be signed.",
        )


def check_requests(name: str, variant: Variant, requests: Sequence[Request]) -> None:
    """Refuse requests that go with no modules, or with modules that nobody gets. Raises FragmentError."""
    modules = next((each for each in requests if each.value == "m"), None)
    values = {each.symbol: each.value for each in requests}
    if not variant.modules:
        if modules and values.get("MODULES") == "y":
            raise FragmentError(
                f"kernel variant {name} asks for modules ({modules} in {modules.where}) and does not have them",
                hint=f"Write `modules: true` and `tools: [{_DEPMOD}]` into a variant.yaml (docs/kernel.md, Modules).",
            )
        return
    if squeezed := next((each for each in requests if _COMPRESSION.fullmatch(each.symbol) and each.value == "y"), None):
        raise FragmentError(
            f"kernel variant {name} asks for compressed modules ({squeezed} in {squeezed.where}): expected modules as "
            "they are, which are signed and listed after they were installed",
            hint="Leave it out: the tarball of modules, the initrd and EROFS images are compressed already.",
        )
    if missing := list(
        _missing(values, modules=modules is not None, signed=any(each.file == SETTING for each in requests))
    ):
        raise FragmentError(
            f"kernel variant {name} has modules, but does not ask for\n" + "\n".join(missing),
            hint=f"Add it to a fragment of {CONFIGS}/variant/{name} "
            "(docs/kernel.md, A variant with modules of your own).",
        )


def _missing(values: dict[str, str], *, modules: bool, signed: bool) -> Iterator[str]:
    if values.get("MODULES") != "y":
        yield "CONFIG_MODULES=y: nothing can be a module"
    if not modules:
        yield "any option =m: there is nothing to load"
    if signed and values.get("MODULE_SIG") != "y":
        yield (
            'CONFIG_MODULE_SIG=y (with CONFIG_MODULE_SIG_SHA512=y and CONFIG_MODULE_SIG_KEY=""): nothing looks at the '
            f"signatures that the {SETTING} asks for"
        )
