"""A real PostgreSQL server for the tests, where its programs are installed."""

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg


class Cluster:
    """A PostgreSQL server of the tests' own, on a unix socket."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._directory = Path(tempfile.mkdtemp(prefix="sandbox-pg-"))
        self._user = "postgres" if os.geteuid() == 0 else getpass.getuser()
        shutil.chown(self._directory, self._user)
        self._run("initdb", "--auth=trust", "--username=tester", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-k {self._directory} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", "--silent", "--log", f"{self._directory}/log", "--options", options)

    def stop(self) -> None:
        postmaster = int((self._directory / "postmaster.pid").read_text().split()[0])
        self._run("pg_ctl", "stop", "--wait", "--silent", "--mode=immediate")
        with contextlib.suppress(ChildProcessError):  # it is ours where orphans come to us
            os.waitpid(postmaster, 0)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._directory)

    def execute(self, statement: str) -> None:
        with psycopg.connect(f"host={self._directory} user=tester dbname=postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def url(self, database: str, options: str = "") -> str:
        return f"postgresql+psycopg://tester:secret@/{database}?host={self._directory}&options={options}"

    def empty(self) -> str:
        """The URL of what looks like an empty database: a schema of its own, which takes no time to make."""
        name = f"t{uuid.uuid4().hex}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url("postgres", f"-csearch_path%3D{name}")

    def _run(self, program: str, *arguments: str) -> None:
        environment = {"PATH": os.environ["PATH"], "PGDATA": f"{self._directory}", "LC_ALL": "C.UTF-8"}
        account = pwd.getpwnam(self._user)
        subprocess.run(
            [self._programs / program, *arguments],
            check=True,
            cwd=self._directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            user=account.pw_uid if os.geteuid() == 0 else None,
            group=account.pw_gid if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
        )


def programs() -> Path | None:
    """Where the server's programs are; None where PostgreSQL is not installed."""
    debian = sorted((str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), reverse=True)
    return next((Path(path).parent for path in (shutil.which("initdb"), *debian) if path), None)
