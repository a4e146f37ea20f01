"""Lines on their way to a file: every one is written or counted, whatever becomes of it, and nobody waits."""

import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from polyfold.errors import InputError
from polyfold.serve.watch.log_writer import LogWriter


def say_lost(lines):
    return f"lost {lines}\n".encode()


def line(number):
    return f"line {number}\n".encode()


def until(condition):
    """Waits for what another thread does; an error where that takes longer than a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def write_all(writer, numbers):
    for number in numbers:
        writer.write(line(number))


def test_lines_of_many_threads_all_arrive_whole_and_each_threads_in_order(tmp_path):
    writer = LogWriter(tmp_path / "log", say_lost)
    threads = [
        threading.Thread(target=write_all, args=(writer, [f"{name}-{count}" for count in range(500)]))
        for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.stop()
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert (len(lines), writer.lost) == (2000, 0)
    for name in "abcd":
        own = [one for one in lines if f" {name}-".encode() in one]
        assert own == [line(f"{name}-{count}") for count in range(500)]


def test_what_is_there_already_stays_and_a_new_file_is_not_for_everyone(tmp_path):
    (tmp_path / "log").write_bytes(b"before\n")
    for name in ("log", "new"):
        writer = LogWriter(tmp_path / name, say_lost)
        write_all(writer, [1])
        writer.stop()
    assert (tmp_path / "log").read_bytes() == b"before\nline 1\n"
    assert (tmp_path / "new").stat().st_mode & 0o007 == 0


def test_a_line_longer_than_a_pipe_takes_at_once_arrives_whole(tmp_path):
    writer = LogWriter(tmp_path / "log", say_lost)
    long = b"x" * 100_000 + b"\n"
    writer.write(long)
    writer.write(line(1))
    writer.stop()
    assert (tmp_path / "log").read_bytes() == long + line(1)


def test_on_a_full_disk_every_line_is_counted_and_nothing_else_happens():
    writer = LogWriter(Path("/dev/full"), say_lost)
    write_all(writer, range(1000))
    until(lambda: writer.lost == 1000)
    write_all(writer, range(10))
    writer.stop()
    assert writer.lost == 1010


# Writes to a file that may have 100 bytes, then to one that may have more: a disk that fills and is cleared.
FILLING = """
import resource, sys, time
from pathlib import Path
from polyfold.serve.watch.log_writer import LogWriter

def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

path = Path(sys.argv[1])
endless = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, endless[1]))
writer = LogWriter(path, lambda lines: f"lost {lines}\\n".encode())
for number in range(20):
    writer.write(f"line {number:04}\\n".encode())
until(lambda: writer.lost)
resource.setrlimit(resource.RLIMIT_FSIZE, endless)
writer.write(b"after\\n")
writer.stop()
print(writer.lost)
"""


def test_half_a_line_left_by_a_full_disk_does_not_spoil_the_next(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FILLING, str(tmp_path / "log")], capture_output=True, text=True, check=True
    )
    lines = (tmp_path / "log").read_text(encoding="utf8").splitlines()
    assert lines[:10] == [f"line {number:04}" for number in range(10)]
    assert lines[10:] == ["after", f"lost {done.stdout.strip()}"]
    assert done.stdout.strip() == "10"


def test_half_a_line_is_ended_before_the_next(tmp_path):
    # The limit cuts line 9 in its middle.
    script = FILLING.replace("(100,", "(95,")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")], capture_output=True, text=True, check=True
    )
    lines = (tmp_path / "log").read_text(encoding="utf8").splitlines()
    assert lines == [*(f"line {number:04}" for number in range(9)), "line ", "after", "lost 11"]
    assert done.stdout.strip() == "11"


def test_a_pipe_that_nobody_reads_costs_lines_until_someone_does(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = LogWriter(tmp_path / "pipe", say_lost)
    write_all(writer, range(5))
    until(lambda: writer.lost == 5)
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        writer.write(line("heard"))
        writer.stop()
        assert reader.read() == line("heard") + b"lost 5\n"
    assert writer.lost == 5


def test_a_reader_that_sleeps_blocks_neither_who_writes_nor_the_stop_and_what_is_read_or_lost_is_all(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    other_end = os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK)
    writer = LogWriter(tmp_path / "pipe", say_lost, capacity=50)
    written = 0

    def overflow_and_stop():
        nonlocal written
        while select.select([], [other_end], [], 0)[1] or writer.lost <= 100:
            writer.write(b"x" * 999 + b"\n")
            written += 1
        writer.stop(timeout_s=0.1)

    # Nobody reads until this has ended: a write or a stop that waited for the reader would never end.
    writing = threading.Thread(target=overflow_and_stop, daemon=True)
    writing.start()
    writing.join(60)
    assert not writing.is_alive()
    os.close(other_end)
    with os.fdopen(reader, "rb") as awake:
        assert awake.read().count(b"x\n") + writer.lost == written


def test_a_reader_that_leaves_costs_lines_until_another_comes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = LogWriter(tmp_path / "pipe", say_lost)
    write_all(writer, [1])
    until(lambda: _read(reader) == line(1))
    os.close(reader)
    write_all(writer, [2, 3])
    until(lambda: writer.lost == 2)
    with os.fdopen(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as another:
        write_all(writer, [4])
        writer.stop()
        assert another.read() == line(4) + b"lost 2\n"


def _read(descriptor):
    try:
        return os.read(descriptor, 1000)
    except BlockingIOError:
        return b""


def test_a_file_that_is_moved_away_is_followed_by_a_new_one_and_no_line_is_lost(tmp_path):
    writer = LogWriter(tmp_path / "log", say_lost)
    for turn in range(3):
        write_all(writer, [turn])
        until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").stat().st_size)
        (tmp_path / "log").rename(tmp_path / f"log.{turn}")
    write_all(writer, [3])
    writer.stop()
    found = [(tmp_path / name).read_bytes() for name in ("log.0", "log.1", "log.2", "log")]
    assert found == [line(number) for number in range(4)]
    assert writer.lost == 0


def test_told_to_reopen_it_does_so_without_waiting_for_a_line(tmp_path):
    writer = LogWriter(tmp_path / "log", say_lost)
    (tmp_path / "log").rename(tmp_path / "log.1")
    writer.reopen()
    until((tmp_path / "log").exists)
    writer.stop()


def test_a_folder_that_goes_away_costs_lines_until_it_is_back(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    writer = LogWriter(folder / "log", say_lost)
    (folder / "log").unlink()
    folder.rmdir()
    write_all(writer, range(3))
    until(lambda: writer.lost == 3)
    folder.mkdir()
    write_all(writer, ["back"])
    writer.stop()
    assert (folder / "log").read_bytes() == line("back") + b"lost 3\n"


def test_what_is_written_after_the_end_is_counted(tmp_path):
    writer = LogWriter(tmp_path / "log", say_lost)
    writer.stop()
    write_all(writer, range(3))
    writer.stop()
    assert writer.lost == 3


def test_a_place_that_can_hold_no_log_is_refused_at_the_start(tmp_path):
    for path in (tmp_path, tmp_path / "missing" / "log"):
        with pytest.raises(InputError, match="no log can be written"):
            LogWriter(path, say_lost)


def test_standard_error_that_nobody_reads_any_more_ends_nothing():
    script = (
        "import sys\n"
        "from polyfold.serve.watch.log_writer import LogWriter\n"
        "writer = LogWriter(None, lambda lines: b'')\n"
        "sys.stdin.read()\n"
        "for number in range(10):\n"
        "    writer.write(b'line\\n')\n"
        "writer.stop()\n"
        "print(writer.lost)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        process.stderr.close()
        process.stdin.close()
        assert process.stdout.read() == b"10\n"
        assert process.wait() == 0
