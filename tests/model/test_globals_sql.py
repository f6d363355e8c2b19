"""Roles read from what pg_dumpall wrote, whatever they are called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgproof.model.globals_sql import memberships, roles, statements

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    plain = text.replace("'", "''")
    return "E'" + plain.replace("\\", "\\\\") + "'" if "\\" in text else f"'{plain}'"


@given(st.lists(names, unique=True, max_size=5), names)
def test_every_role_is_found_by_its_name_and_nothing_else_is(given_names: list[str], noise: str) -> None:
    lines = [
        "--",
        f"-- {noise.splitlines()[0] if noise.splitlines() else ''}",
        "\\restrict x",
        "SET a = off;",
    ]
    for name in given_names:
        lines += [
            f"CREATE ROLE {quoted(name)};",
            f"ALTER ROLE {quoted(name)} WITH SUPERUSER PASSWORD {literal(noise)};",
            f"COMMENT ON ROLE {quoted(name)} IS {literal(noise)};",
            f"ALTER ROLE {quoted(name)} SET work_mem TO {literal(noise)};",
            f"GRANT {quoted(name)} TO {quoted(noise)} WITH INHERIT TRUE GRANTED BY {quoted(noise)};",
        ]
    text = "\n".join([*lines, "\\unrestrict x", ""])
    found = roles(text)
    assert list(found) == given_names
    for name, made in found.items():
        assert made == [
            f"CREATE ROLE {quoted(name)}",
            f"ALTER ROLE {quoted(name)} WITH SUPERUSER PASSWORD {literal(noise)}",
        ]
    grants = [f"GRANT {quoted(name)} TO {quoted(noise)} WITH INHERIT TRUE" for name in given_names]
    assert memberships(text) == grants


def test_statements_end_at_semicolons_outside_of_quotes_and_comments_and_psql_s_commands_are_none() -> None:
    text = "a 'x;y' \"p;q\" -- c;d\n;\n\\! touch x\nb E'it\\';';\\connect c\n  ;;c"
    assert list(statements(text)) == ["a 'x;y' \"p;q\" \n", "b E'it\\';'", "", "", "c"]


def test_names_in_any_encoding_come_back_as_the_bytes_that_they_were() -> None:
    written = "CREATE ROLE müller;\nALTER ROLE müller WITH LOGIN;\n".encode("latin-1")
    (made,) = roles(written.decode(errors="surrogateescape")).values()
    assert [each.encode(errors="surrogateescape") + b";" for each in made] == written.splitlines()
