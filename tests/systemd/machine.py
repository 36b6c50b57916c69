"""A machine of its own for tests: this one's systemd, booted in namespaces by the script `boot`."""

import contextlib
import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 60.0
_numbers = itertools.count()
_BOOT = Path(__file__).with_name("boot")


class CannotBootError(Exception):
    """The surroundings do not allow it: no root, no overlay, no control groups."""


class Machine:
    """A booted systemd; `close` ends everything in it.

    Args:
        tree: files that stand over those of this machine; its units are the only ones.
        binds: folders of this machine and where they are seen there.

    Raises:
        CannotBootError: with the reason.
    """

    def __init__(self, tree: Path, binds: dict[Path, str]) -> None:
        self._name = f"edgetest-{os.getpid()}-{next(_numbers)}"
        self._log: list[str] = []
        self._told = threading.Condition()
        # The script's end is the machine's, and this process's end is the script's.
        command = ["setpriv", "--pdeathsig", "KILL", str(_BOOT), self._name, str(tree)]
        command += [f"{source}:{target}" for source, target in binds.items()]
        self._boot = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._journal: subprocess.Popen[str] | None = None
        try:
            self._pid = self._first_process()
            self.until("systemd has booted", self._has_booted)
            self._journal = subprocess.Popen(
                [*self._enter(), "journalctl", "--follow", "--lines=all", "--output=short-monotonic"],
                stdout=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
            )
            self._reader = threading.Thread(target=self._read_journal, args=(self._journal,))
            self._reader.start()
        except BaseException:
            self.close()
            raise

    def run(self, *command: str, user: str = "root", ok: bool = True) -> str:
        """What a command in the machine prints; `ok`: it must end with 0."""
        if user != "root":
            command = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command)
        told = subprocess.run([*self._enter(), *command], capture_output=True, text=True, timeout=PATIENCE_S)
        if ok and told.returncode != 0:
            raise AssertionError(
                f"{command} ended with {told.returncode}: {told.stdout}{told.stderr}\n{self._end_of_log()}"
            )
        return told.stdout

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def path(self, inside: str) -> Path:
        """Where a path of the machine is seen from here."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def has_logged(self, text: str) -> bool:
        """Whether a line of the machine's journal has this text."""
        with self._told:
            return any(text in line for line in self._log)

    def until(self, what: str, is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
        """Ask again at each line of the machine's journal; the seconds until it was so."""
        began_s = time.monotonic()
        while not is_so():
            if time.monotonic() - began_s > patience_s:
                raise AssertionError(f"waited {patience_s:g} s in vain until {what}\n{self._end_of_log()}")
            with self._told:
                self._told.wait(0.05)
        return time.monotonic() - began_s

    def close(self) -> None:
        """Kill all processes of the machine and remove its control groups."""
        self._boot.kill()
        self._boot.wait()
        if self._boot.stdout is not None:
            self._boot.stdout.close()
        if self._journal is not None:
            self._journal.wait()
            self._reader.join()
            assert self._journal.stdout is not None
            self._journal.stdout.close()
        for mount in Path("/proc/self/mounts").read_text().splitlines():
            _, target, kind, *_ = mount.split()
            if kind == "cgroup2" and (group := Path(target) / self._name).is_dir():
                self.until("its control groups are gone", lambda group=group: _is_removed(group))

    def _end_of_log(self) -> str:
        with self._told:
            return "".join(self._log[-40:])

    def _enter(self) -> list[str]:
        namespaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"  # useradd lies there, and not every user's PATH does
        return ["nsenter", f"--target={self._pid}", *namespaces, "env", f"PATH={path}"]

    def _first_process(self) -> int:
        children = Path(f"/proc/{self._boot.pid}/task/{self._boot.pid}/children")
        while self._boot.poll() is None:
            with contextlib.suppress(OSError):  # the script's own children come and go
                for pid in children.read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                        return int(pid)
            os.sched_yield()
        assert self._boot.stdout is not None
        told = self._boot.stdout.read()
        if self._boot.returncode == 77:
            raise CannotBootError(told.strip())
        raise AssertionError(f"the boot script ended with {self._boot.returncode}: {told}")

    def _has_booted(self) -> bool:
        command = [*self._enter(), "systemctl", "is-system-running"]
        told = subprocess.run(command, capture_output=True, text=True).stdout
        return told.strip() in ("running", "degraded")

    def _read_journal(self, journal: "subprocess.Popen[str]") -> None:
        assert journal.stdout is not None
        for line in journal.stdout:
            with self._told:
                self._log.append(line)
                self._told.notify_all()


def _is_removed(group: Path) -> bool:
    """Remove a control group and those below it; False while a process that was killed is still in one."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return True
