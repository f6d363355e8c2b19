"""What the SQL of a dump's schema needs of a server, and what it says of the database itself."""

from __future__ import annotations

from pgproof.model.database_needs import database_commands, needs_of_script

_OF_THE_DATABASE = [
    "ALTER DATABASE app OWNER TO shop;",
    "COMMENT ON DATABASE \"app\" IS 'it''s; two\nlines';",
    'ALTER ROLE "night shift" IN DATABASE "app" SET "work_mem" TO \'7MB\';',
    'GRANT CONNECT ON DATABASE "app" TO "guest";',
]
_INSIDE = r"""
-- Name: orders; Type: TABLE; Schema: public; Owner: somebody
CREATE EXTENSION IF NOT EXISTS "hstore" WITH SCHEMA "public";
SET default_tablespace = fast;
SET default_tablespace = '';
ALTER TABLE public.orders OWNER TO "an ""odd"" one";
ALTER FUNCTION "public"."f"("x" integer) OWNER TO plain;
ALTER TABLE "public"."orders" ADD CONSTRAINT "c" CHECK (("t" <> 'OWNER TO nobody'::"text"));
CREATE POLICY "p" ON "public"."orders" FOR SELECT TO "guard", "other guard" USING (true);
CREATE POLICY "q" ON "public"."orders" USING (("t" <> ' TO nobody'::"text"));
GRANT SELECT("id"),UPDATE("id") ON TABLE "public"."orders" TO "reader" WITH GRANT OPTION;
GRANT SELECT ON TABLE "public"."orders" TO PUBLIC;
SET SESSION AUTHORIZATION "grantor";
ALTER DEFAULT PRIVILEGES FOR ROLE "maker" IN SCHEMA "public" GRANT SELECT ON TABLES TO "user";
"""


def test_what_is_needed() -> None:
    needs = needs_of_script("\n".join([*_OF_THE_DATABASE, _INSIDE]))
    assert needs.roles == {
        'an "odd" one', "plain", "guard", "other guard", "reader", "grantor", "maker", "user",
    }  # fmt: skip
    assert needs.tablespaces == {"fast"} and needs.extensions == {"hstore"}
    assert not needs.without_tablespaces().tablespaces


def test_what_is_said_of_the_database() -> None:
    assert database_commands("\n".join([*_OF_THE_DATABASE, _INSIDE])) == _OF_THE_DATABASE
