"""The commands on databases and tables that are killed: what may be in the server afterwards, and what never."""

from __future__ import annotations

from collections.abc import Sequence

from campaigns import crash_judge as judge
from campaigns.crash_commands import Attack, Create
from campaigns.crash_ground import Ended, Store
from campaigns.crash_shop import NAME, Rows, Tables
from pgproof.cli.exits import Exit
from pgproof.repository.catalog import find_backup

_LOGICAL = ("--method=logical", "--database=postgres")


class CreateLogical(Create):
    """Of the ledger's database: what was acknowledged before it began is in it."""

    name = "create logical"
    arguments: Sequence[str] = ("create", *_LOGICAL)

    def _prepare(self, kind: str) -> Store:
        return self.ground.store(kind, *_LOGICAL)

    def require_restorable(self, backup_id: str) -> None:
        ground, copy = self.ground, "ledger_copy"
        begun = find_backup(self.store.open(), backup_id).start_lsn
        ground.run(self.store, "restore", backup_id, f"--target={copy}", "--yes")
        with ground.cluster.connect(copy) as connection:
            ground.ledger.check(connection, begun)
        ground.cluster.psql(f"DROP DATABASE {copy}")


class CreateLogicalIncremental(CreateLogical):
    name = "create logical incremental"
    arguments = ("create", "--type=incremental", *_LOGICAL)


class RestoreDatabase(Attack):
    """Over the live one: that is as it was, or the restored one is in its place and it beside it."""

    name = "restore database"
    kinds = ("local",)
    method = "logical"
    options: Sequence[str] = ("--drop-old",)

    def _prepare(self, kind: str) -> Store:
        self.shop = self.ground.shop
        self.shop.reset()
        self.environ = {"PGDATABASE": NAME}
        backup_id = getattr(self.shop, self.method)
        self.arguments = ["restore", backup_id, "--yes", *self.options]
        return self.shop.store

    def judge(self, ended: Ended) -> set[str]:
        judge.require_whole_catalog(self.store, self.chance, new=0)
        shop, live = self.shop, self.shop.tables()
        shop.require_open()
        old = [shop.tables(name) for name in shop.replaced()]
        if live == shop.changed:
            assert ended.status != 0 and not old, (
                f"nothing was restored, and {len(old)} were replaced: {ended}"
            )
            return {"databases that a killed restore left as they were"}
        assert live == shop.backed_up, "neither the old database nor the restored one"
        assert all(each == shop.changed for each in old) and len(old) <= 1
        assert old or "--drop-old" in self.options, "the replaced database is gone"
        self._tidy()
        return {"databases restored although killed"} if ended.status else set()

    def repeat(self) -> set[str]:
        shop = self.shop
        self._run()
        assert shop.tables() == shop.backed_up
        assert not shop.unfinished(), "a half database is left"
        assert all(shop.tables(name) == shop.changed for name in shop.replaced())
        self._tidy()
        assert list(self.ground.temporary.iterdir()) == []
        return {"databases restored after a kill"}

    def _tidy(self) -> None:
        self.shop.drop(*self.shop.replaced())
        self.shop.reset()


class RestoreDatabaseFromPhysical(RestoreDatabase):
    name = "restore database from physical"
    method = "physical"
    options = ()


class AddMissing(Attack):
    """Into the live database, from which a table was dropped: it comes back as a whole, and nothing else changes."""

    name = "restore --no-clean"
    kinds = ("local",)

    def _prepare(self, kind: str) -> Store:
        self.shop = self.ground.shop
        self.shop.reset()
        self.environ = {"PGDATABASE": NAME}
        self.arguments = ["restore", self.shop.logical, "--no-clean", "--yes"]
        self.ground.cluster.psql("DROP TABLE bag CASCADE", NAME)
        self.kept = {"items": self.shop.changed["items"]}
        self.whole = self.kept | {"bag": self.shop.backed_up["bag"]}
        return self.shop.store

    def judge(self, ended: Ended) -> set[str]:
        self.shop.require_open()
        found = self.shop.tables()
        if found == self.kept:
            assert ended.status != 0, ended
            return set()
        assert found == self.whole, "more or less than the table that was missing"
        self._indexed()
        return {"tables added although killed"} if ended.status else set()

    def repeat(self) -> set[str]:
        self._run()
        assert self.shop.tables() == self.whole
        self._indexed()
        assert not self.shop.unfinished(), "a half database is left"
        return {"tables added after a kill"}

    def _indexed(self) -> None:
        assert (
            self.ground.cluster.psql("SELECT count(*) FROM pg_indexes WHERE tablename = 'bag'", NAME) == "1"
        )
        assert self.ground.cluster.psql("SELECT count(*) FROM pg_views WHERE viewname = 'texts'", NAME) == "1"


class Clone(Attack):
    """The clone is there, whole and masked, or it is not."""

    name = "clone"
    kinds = ("local",)
    options: Sequence[str] = ()
    masked = True

    def _prepare(self, kind: str) -> Store:
        self.shop = self.ground.shop
        self.shop.reset()
        self.copy = f"copy_{self.chance.getrandbits(40):010x}"
        mask = self.ground.place / "mask.sql"
        mask.write_text("UPDATE items SET t = 'masked'; INSERT INTO bag VALUES ('masked');\n")
        self.arguments = [
            "clone",
            NAME,
            self.copy,
            *self.options,
            *([f"--mask={mask}"] if self.masked else []),
        ]
        return self.shop.store

    def _wanted(self) -> Tables:
        found = dict(self.shop.changed)
        if self.masked:
            found["items"] = Rows({(row[0], "masked"): count for row, count in found["items"].items()})
            found["bag"] = found["bag"] + Rows({("masked",): 1})
        return found

    def judge(self, ended: Ended) -> set[str]:
        self.shop.require_unchanged()
        self.made = self.copy in self.shop.databases()
        if self.made:
            assert self.shop.tables(self.copy) == self._wanted()
        else:
            assert ended.status != 0, ended
        if ended.status == 0:
            self.shop.drop(self.copy)
        return {"clones made although killed"} if self.made and ended.status else set()

    def repeat(self) -> set[str]:
        if self.made:
            assert "exists already" in self._run(status=Exit.PRECONDITION).answer["error"]["message"]
        else:
            self._run()
        assert self.shop.tables(self.copy) == self._wanted()
        assert not self.shop.unfinished(), "a half database is left"
        self.shop.drop(self.copy)
        return {"clones after a kill"}


class FastClone(Clone):
    name = "clone --fast"
    options = ("--fast",)
    masked = False


class Rescue(Attack):
    """Rows are put back all or none, and never twice; a rescued table is whole."""

    name = "restore --table --merge"
    kinds = ("local",)
    method, table, merge = "logical", "bag", "missing"

    def _prepare(self, kind: str) -> Store:
        self.shop = self.ground.shop
        self.shop.reset()
        self.environ = {"PGDATABASE": NAME}
        backup_id = getattr(self.shop, self.method)
        self.arguments = [
            "restore",
            backup_id,
            f"--table=public.{self.table}",
            f"--merge={self.merge}",
            "--yes",
        ]
        before, then = self.shop.changed[self.table], self.shop.backed_up[self.table]
        self.merged = self.shop.changed | {self.table: self._merged(before, then)}
        return self.shop.store

    def _merged(self, live: Rows, backed_up: Rows) -> Rows:
        """Of each row as many as there are on the side that has more of it."""
        return live | backed_up

    def judge(self, ended: Ended) -> set[str]:
        self.shop.require_open()
        tables = self.shop.tables()
        rescued = [name for name in tables if name.startswith(f"{self.table}_rescued_")]
        assert all(tables.pop(name) == self.shop.backed_up[self.table] for name in rescued), "half a table"
        if tables == self.shop.changed != self.merged:
            assert ended.status != 0, ended
            return {"tables rescued although killed"} if rescued else set()
        assert tables == self.merged, "some of the rows, or some of them twice"
        return {"rows put back although killed"} if ended.status else set()

    def repeat(self) -> set[str]:
        self._run()
        tables = self.shop.tables()
        kept = {name: rows for name, rows in tables.items() if "_rescued_" not in name}
        assert kept == self.merged, "rows are missing, or there twice"
        assert list(self.ground.temporary.iterdir()) == []
        return {"rows put back after a kill"}


class RescueFromPhysical(Rescue):
    name = "restore --table --merge from physical"
    method, table, merge = "physical", "items", "both"

    def _merged(self, live: Rows, backed_up: Rows) -> Rows:
        keys = {row[0] for row in backed_up}
        return backed_up + Rows({row: count for row, count in live.items() if row[0] not in keys})
