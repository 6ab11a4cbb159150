"""One process an output folder, and room for what will be written."""

from __future__ import annotations

import collections
import os
import re
import socket
import stat
import subprocess
import sys

import pytest

from abmll.core.errors import AbmllError
from abmll.core.files import write_whole
from abmll.core.folders import HOLDER, LOCK, hold, require_room, require_writable

HOLD = "import sys, pathlib\nfrom abmll.core.folders import hold\nwith hold(pathlib.Path(sys.argv[1])):\n"
HOLD += "    print('held', flush=True)\n    sys.stdin.read()"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the folder `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_the_folder_and_takes_over_when_it_is_dead(holder, tmp_path):
    with pytest.raises(AbmllError) as refused, hold(tmp_path / "run"):
        pass
    host = re.escape(socket.gethostname())
    assert re.search(
        rf"run is in use by process {holder.pid} on {host} \(-c .*run\), since \d{{4}}-\d\d-\d\dT.*\. Wait until",
        str(refused.value),
    )
    holder.kill()  # as a scheduler or a full memory would: nothing is tidied up
    holder.wait()
    assert (tmp_path / "run" / HOLDER).exists()
    with hold(tmp_path / "run"):
        pass
    assert list((tmp_path / "run").iterdir()) == [], "nothing is left behind"


def test_a_damaged_record_of_the_holder_is_another_process(holder, tmp_path):
    (tmp_path / "run" / HOLDER).write_text("[" * 10_000)
    with pytest.raises(AbmllError, match=r"run is in use by another process\. Wait"), hold(tmp_path / "run"):
        pass


def test_one_process_may_hold_a_folder_twice_and_files_stay(tmp_path):
    folder = tmp_path / "a" / "run"
    with hold(folder), hold(tmp_path / "a" / ".." / "a" / "run"):
        (folder / "result").write_text("1")
    assert [path.name for path in folder.iterdir()] == ["result"]
    with hold(folder):
        pass


@pytest.mark.parametrize("check", [require_writable, lambda folder: hold(folder).__enter__()])
def test_a_folder_that_cannot_be_written_is_one_line(check, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(AbmllError, match=r"cannot write to .*file/run: .*Not a directory.* choose another"):
        check(tmp_path / "file" / "run")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_one_line(tmp_path):
    (tmp_path / "run").mkdir(mode=0o555)
    for check in (require_writable, lambda folder: hold(folder).__enter__()):
        with pytest.raises(AbmllError, match=r"cannot write to .*run: Permission denied"):
            check(tmp_path / "run")


def test_a_full_disk_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10, 10, 3 * 2**20))
    require_room(tmp_path / "not" / "there", 3 * 2**20, "results")
    with pytest.raises(AbmllError, match=r"there: 3 MiB are free there, and the adapter need about 4 MiB\. Free some"):
        require_room(tmp_path / "not" / "there", 4 * 2**20, "the adapter")


def test_a_device_or_a_pipe_is_written_to_and_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "words")
    assert os.read(reader, 100) == b"words"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(AbmllError, match="Is a directory"):
        write_whole(tmp_path, "words")


def test_a_strangers_folder_is_held_without_writing_through_its_links_and_pipes(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for make in (lambda path: path.symlink_to(tmp_path / "mine"), os.mkfifo):
        folder = tmp_path / f"from-outside-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        make(folder / HOLDER)
        with hold(folder):
            assert stat.S_ISREG(os.lstat(folder / HOLDER).st_mode)
    assert (tmp_path / "mine").read_text() == "mine"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(AbmllError, match=r"linked/\.abmll\.lock is a link or a folder"), hold(linked):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
