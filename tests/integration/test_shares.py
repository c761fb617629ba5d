"""What a host does beside QEMU for a guest that takes a folder of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from osbuilder.guest.shares import serving


def test_the_folder_is_there_while_qemu_runs_and_its_status_is_kept(tmp_path: Path) -> None:
    share = tmp_path / "share"
    qemu = ("sh", "-c", 'cat "$0/from-host"; exit 7', str(share))
    ran = subprocess.run(serving(qemu, share=share, virtiofs=False), check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "osbuilder\n", "")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_attempt_left_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "from-guest").write_text("earlier\n")
    ran = subprocess.run(
        serving(("ls", str(share)), share=share, virtiofs=False), check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "from-host\n", "")
