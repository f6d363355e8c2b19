-- A database with one of everything that pg_dump knows, for PostgreSQL 15 and later, as psql reads it.
-- Its roles, `everything owner` and `everything_reader`, are the cluster's: they are made if they are not there.
SELECT format('CREATE ROLE %I', r) FROM unnest(ARRAY['everything owner', 'everything_reader']) r
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) \gexec

CREATE EXTENSION citext;
CREATE SCHEMA extensions;
CREATE EXTENSION hstore SCHEMA extensions;
CREATE EXTENSION btree_gist;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION postgres_fdw;
COMMENT ON EXTENSION citext IS 'text without case';

CREATE SCHEMA app AUTHORIZATION "everything owner";
CREATE SCHEMA "odd schema; \q
DROP TABLE app.accounts; --";
COMMENT ON SCHEMA app IS E'a comment\nof two lines, with \\! and ''quotes''';
ALTER DEFAULT PRIVILEGES FOR ROLE "everything owner" IN SCHEMA app GRANT SELECT ON TABLES TO everything_reader;
GRANT USAGE ON SCHEMA app, extensions TO everything_reader, "everything owner";
SET search_path = app, public, extensions;

-- types
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
ALTER TYPE mood ADD VALUE 'bored' BEFORE 'ok';
CREATE TYPE address AS (street text, "no" int, mood mood);
CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN positive AS int DEFAULT 1 CHECK (VALUE > 0);
CREATE DOMAIN mail AS citext CONSTRAINT has_at CHECK (VALUE ~ '@');
COMMENT ON TYPE mood IS 'how it feels';
CREATE COLLATION posix_order (provider = libc, locale = 'C');

-- functions
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT n * 2';
CREATE FUNCTION twice_atomic(n int) RETURNS int LANGUAGE sql IMMUTABLE RETURN n * 2;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    NEW.changed := coalesce(NEW.changed, 0) + 1;  -- $$ and ' in a body
    RETURN NEW;
END $body$;
CREATE PROCEDURE nothing(INOUT n int DEFAULT 0) LANGUAGE plpgsql AS 'BEGIN n := n + 1; END';
CREATE AGGREGATE product(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = '1');
CREATE FUNCTION moods_equal(mood, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $2 = 1';
CREATE OPERATOR === (LEFTARG = mood, RIGHTARG = int, FUNCTION = moods_equal);
CREATE CAST (address AS text) WITH INOUT;
REVOKE EXECUTE ON FUNCTION twice(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION twice(int) TO everything_reader WITH GRANT OPTION;

-- tables
CREATE SEQUENCE tickets START 1000 INCREMENT 7 CACHE 5;
SELECT nextval('tickets') FROM generate_series(1, 3);
CREATE TABLE accounts (
    id int GENERATED ALWAYS AS IDENTITY (START 10) PRIMARY KEY,
    email mail UNIQUE,
    ticket bigint DEFAULT nextval('tickets'),
    balance numeric(12, 2) NOT NULL DEFAULT 0 CONSTRAINT not_poor CHECK (balance >= 0),
    doubled numeric GENERATED ALWAYS AS (balance * 2) STORED,
    feels mood DEFAULT 'ok',
    home address,
    spans float_range,
    tags hstore,
    numbers int[] DEFAULT '{1,2}',
    doc jsonb,
    bits bit varying(9),
    raw bytea,
    doomed int,
    changed int,
    best_friend int,
    CHECK (twice(id) > id)
);
INSERT INTO accounts (email, balance, feels, home, spans, tags, doc, bits, raw)
SELECT 'User' || g || '@example.com', g * 1.5, (enum_range(NULL::mood))[1 + g % 4], ROW('street ' || g, g, 'sad')::address,
    float_range(g, g + 0.25), hstore('k', g::text), jsonb_build_object('g', g, 'text', E'tab\tback\\slash\nline'),
    g::bit(7), decode(md5(g::text), 'hex')
FROM generate_series(1, 500) g;
ALTER TABLE accounts DROP COLUMN doomed;
UPDATE accounts SET best_friend = id + 1 WHERE id < 500;
ALTER TABLE accounts ADD FOREIGN KEY (best_friend) REFERENCES accounts DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX accounts_trgm ON accounts USING gin ((email::text) gin_trgm_ops) WHERE balance > 10;
CREATE INDEX ON accounts (lower(email::text) COLLATE posix_order DESC) INCLUDE (balance);
CREATE STATISTICS accounts_stats (dependencies) ON feels, balance FROM accounts;
ALTER TABLE accounts CLUSTER ON accounts_pkey, ALTER COLUMN doc SET STORAGE EXTERNAL, SET (fillfactor = 90);
CREATE TRIGGER stamp BEFORE UPDATE ON accounts FOR EACH ROW WHEN (NEW.balance > 0) EXECUTE FUNCTION stamp();
ALTER TABLE accounts DISABLE TRIGGER stamp;
COMMENT ON COLUMN accounts.email IS 'where to write';
GRANT SELECT (id, email), UPDATE (balance) ON accounts TO everything_reader;
ALTER TABLE accounts OWNER TO "everything owner";

-- foreign keys in a circle
CREATE TABLE hens (id int PRIMARY KEY, egg int);
CREATE TABLE eggs (id int PRIMARY KEY, hen int REFERENCES hens);
INSERT INTO hens SELECT g, g FROM generate_series(1, 50) g;
INSERT INTO eggs SELECT g, 51 - g FROM generate_series(1, 50) g;
ALTER TABLE hens ADD FOREIGN KEY (egg) REFERENCES eggs;

-- inheritance and partitions
CREATE TABLE things (id int, name text, CHECK (id > 0));
CREATE TABLE big_things (weight float8) INHERITS (things);
INSERT INTO things VALUES (1, 'thing');
INSERT INTO big_things VALUES (2, 'big', 1e300), (3, NULL, 'NaN'), (4, '', '-Infinity');
CREATE TABLE events (id bigint GENERATED BY DEFAULT AS IDENTITY, at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (what);
CREATE TABLE events_2020_a PARTITION OF events_2020 FOR VALUES IN ('a', 'b');
CREATE TABLE events_2020_rest PARTITION OF events_2020 DEFAULT;
CREATE TABLE events_rest PARTITION OF events DEFAULT;
INSERT INTO events (at, what) SELECT '2019-06-01'::date + g, chr(97 + g % 5) FROM generate_series(1, 900) g;
CREATE UNIQUE INDEX ON events (id, at, what);
CREATE TABLE by_mood (feels mood, n int) PARTITION BY HASH (feels);
CREATE TABLE by_mood_0 PARTITION OF by_mood FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE by_mood_1 PARTITION OF by_mood FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE by_mood_2 PARTITION OF by_mood FOR VALUES WITH (MODULUS 3, REMAINDER 2);
INSERT INTO by_mood SELECT (enum_range(NULL::mood))[1 + g % 4], g FROM generate_series(1, 400) g;
CREATE TABLE bookings (room int, during tstzrange, EXCLUDE USING gist (room WITH =, during WITH &&));
INSERT INTO bookings SELECT g, tstzrange('2024-01-01'::timestamptz, '2024-01-02') FROM generate_series(1, 20) g;
CREATE UNLOGGED TABLE unlogged (id int);
INSERT INTO unlogged VALUES (1);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE "odd schema; \q
DROP TABLE app.accounts; --"."table
\! touch /tmp/pgproof-was-here
" ("column
\connect postgres
" text);
INSERT INTO "odd schema; \q
DROP TABLE app.accounts; --"."table
\! touch /tmp/pgproof-was-here
" VALUES (E'\\.'), (E'\\N'), (NULL), (''), (E'a\tb\nc\rd\\e'), (U&'\0416\+01F418');

-- views and rules
CREATE VIEW rich AS SELECT id, email, balance FROM accounts WHERE balance > 100 WITH CHECK OPTION;
CREATE VIEW richest WITH (security_barrier) AS SELECT * FROM rich ORDER BY balance DESC LIMIT 3;
CREATE RULE silent AS ON DELETE TO things DO INSTEAD NOTHING;
CREATE RECURSIVE VIEW counted (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM counted WHERE n < 5;
CREATE MATERIALIZED VIEW moods AS SELECT feels, count(*) FROM accounts GROUP BY feels;
CREATE MATERIALIZED VIEW moods_of_moods AS SELECT sum(count) FROM moods;
CREATE MATERIALIZED VIEW not_filled AS SELECT 1 AS one WITH NO DATA;
CREATE UNIQUE INDEX ON moods (feels);

-- row-level security
CREATE TABLE secrets (owner name DEFAULT current_user, secret text);
INSERT INTO secrets VALUES ('everything_reader', 'for the reader'), ('postgres', 'for postgres');
ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secrets FOR ALL TO everything_reader USING (owner = current_user);
GRANT SELECT, INSERT ON secrets TO everything_reader;

-- text search, foreign data, publications, event triggers
CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple);
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid');
CREATE USER MAPPING FOR everything_reader SERVER elsewhere OPTIONS (user 'me', password 'hidden');
CREATE FOREIGN TABLE far (id int) SERVER elsewhere OPTIONS (table_name 'near');
CREATE PUBLICATION pieces FOR TABLE accounts (id, email) WHERE (id > 5);
CREATE PUBLICATION schemas FOR TABLES IN SCHEMA extensions;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE DEBUG ''%'', tg_tag; END';
CREATE EVENT TRIGGER watch_ddl ON ddl_command_end EXECUTE FUNCTION on_ddl();

-- large objects
SELECT lo_from_bytea(70001, 'a small one'), lo_from_bytea(70002, ''),
    lo_from_bytea(70003, (SELECT string_agg(decode(md5(i::text), 'hex'), '') FROM generate_series(1, 20000) i));
ALTER LARGE OBJECT 70001 OWNER TO "everything owner";
GRANT SELECT ON LARGE OBJECT 70002 TO everything_reader;
COMMENT ON LARGE OBJECT 70003 IS 'a large one';
