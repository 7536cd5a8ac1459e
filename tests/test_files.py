"""Files that are whole or not there, whatever ends the process that writes them."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s2rm.files import only_writer, read_json, write_whole

posix = pytest.mark.skipif(os.name != "posix", reason="rights, links and locks are POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@posix
@pytest.mark.parametrize("rights", [0o600, 0o640, 0o444])
def test_a_file_that_is_there_keeps_its_rights(tmp_path, rights):
    path = tmp_path / "private"
    path.write_text("old")
    path.chmod(rights)
    write_whole(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", rights)


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_target_is_written(tmp_path, there):
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert [*tmp_path.rglob("*.part")] == []


@posix
def test_pipes_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit((tmp_path / "pipe").read_bytes)
        write_whole(tmp_path / "pipe", b"content")
        assert reading.result(10) == b"content"
    assert (tmp_path / "pipe").is_fifo()


def test_names_are_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("a" * 250)
    write_whole(path, b"long")
    assert path.read_bytes() == b"long"


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder") as refused:
        write_whole(tmp_path / "folder", b"x")
    assert ".part" not in str(refused.value)
    assert [*tmp_path.rglob("*.part")] == []


@posix
def test_what_a_killed_writer_left_is_gone_after_the_next_write(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    wait = "import os, sys, time; os.fsync = lambda _: (print('writing', flush=True), time.sleep(60)); "
    code = wait + "from s2rm.files import write_whole; write_whole(sys.argv[1], b'new' * 99)"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    assert len([*tmp_path.iterdir()]) == 2
    write_whole(path, b"next")
    assert path.read_bytes() == b"next"
    assert [*tmp_path.iterdir()] == [path]


def test_many_writers_of_one_file_leave_one_of_theirs(tmp_path):
    path, contents = tmp_path / "file", [bytes([number]) * 5000 for number in range(20)]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda content: write_whole(path, content), contents))
    assert path.read_bytes() in contents
    assert [*tmp_path.iterdir()] == [path]


@posix
def test_one_process_at_a_time_writes_into_a_folder(tmp_path):
    with only_writer(tmp_path / "run", "train"):
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"^train: another process is writing into .*run; wait"):  # noqa: SIM117
            with only_writer(tmp_path / "run", "train"):
                pass
        assert time.monotonic() - started < 5
    with only_writer(tmp_path / "run", "train"):
        pass
    assert [*(tmp_path / "run").iterdir()] == [], "a lock leaves no file"


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "\udcff", "9" * 5000, '{"a": ' * 50_000])
def test_what_is_no_json_is_one_line(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="is not JSON") as refused:
        read_json(path)
    assert "\n" not in str(refused.value)


def test_json_of_gigabytes_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(["a" * 100]))
    monkeypatch.setattr("s2rm.files.LARGEST_JSON", 100)
    with pytest.raises(ValueError, match="is larger than"):
        read_json(path)
