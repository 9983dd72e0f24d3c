"""Passwords, tokens and signatures are blanked out wherever an error, a log or a table may show them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL, make_url

from karui.errors import CandidateFailure, KaruiError, without_secrets
from karui.studies.watching.log import SearchLog, read_log

PLAIN = st.text("abcxyz0189-_", min_size=1, max_size=8)
SECRET = st.text(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1, max_size=12).map("PW".__add__)
"""Nothing else in these texts holds PW."""
FEW = settings(deadline=None, max_examples=150, derandomize=True, database=None)


@FEW
@given(user=st.text("abc.@-", max_size=8), secret=SECRET, host=PLAIN)
def test_a_password_in_a_url_is_blanked_whatever_it_holds(user: str, secret: str, host: str) -> None:
    shown = without_secrets(f"cannot reach postgresql://{user}:{secret}@{host}:5432/db now")
    assert shown == f"cannot reach postgresql://{user}:***@{host}:5432/db now"


@FEW
@given(
    name=st.sampled_from(
        [
            *("password", "sslpassword", "passwd", "sig", "X-Amz-Signature", "X-Amz-Security-Token", "token"),
            *("access_token", "secret", "client_secret", "AccountKey", "api_key", "sas", "AWSAccessKeyId"),
            *("SharedAccessSignature", "p%61ssword"),
        ]
    ),
    secret=SECRET.filter(lambda text: not set(text) & set("&;")),
    first=st.booleans(),
    behind=st.sampled_from(["", "&x=1", ";x=1"]),
)
def test_a_parameter_of_a_url_that_is_a_secret_is_blanked(name: str, secret: str, first: bool, behind: str) -> None:
    before = "abfs://box@acc.example.org/dir" + ("?" if first else "?sv=1&")
    assert without_secrets(f"{before}{name}={secret}{behind}") == f"{before}{name}=***{behind}"


@FEW
@given(user=PLAIN, secret=SECRET, host=PLAIN, option=SECRET)
def test_what_sqlalchemy_writes_of_a_url_shows_no_password(user: str, secret: str, host: str, option: str) -> None:
    url = URL.create("postgresql", user, secret, host, database="db", query={"sslpassword": option})
    text = url.render_as_string(hide_password=False)
    assert (make_url(text).password, make_url(text).query["sslpassword"]) == (secret, option)
    shown = without_secrets(text)
    assert shown == f"postgresql://{user}:***@{host}/db?sslpassword=***"
    for hidden in (secret, option, quote(secret, safe=" +"), quote_plus(option)):
        assert hidden not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=db password=PW dbname=x", "host=db password=*** dbname=x"),
        ("host=db password='PW PW' dbname=x", "host=db password=*** dbname=x"),
        ('{"user": "me", "password": "PW PW", "port": 1}', '{"user": "me", "password": ***, "port": 1}'),
        ("storage_options={'key': 'id', 'secret': 'PW'}", "storage_options={'key': 'id', 'secret': ***}"),
        ("PGPASSWORD=PW psql", "PGPASSWORD=*** psql"),
        ("https://ghp_PW@github.com/x", "https://***@github.com/x"),
        ("https://me:PW@github.com/x", "https://***@github.com/x"),
        ("Authorization: Bearer PWPWPW.PW-", "Authorization: Bearer ***"),
        ("BlobEndpoint=https://x;AccountKey=PW==;z=1", "BlobEndpoint=https://x;AccountKey=***;z=1"),
        ("s3://id:PW/PW@bucket/dir", "s3://id:***@bucket/dir"),
    ],
)
def test_other_ways_to_write_a_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/a:b/study.db",
        "postgresql://host:5432/db",
        "postgresql://me@host:5432/db?application_name=karui&connect_timeout=3",
        "postgresql://me@[::1]:5432/db",
        "abfs://box@account.dfs.core.windows.net/dir",
        "me@example.org",
        "one of weights, activations; got: 3 (expected key = value)",
        "unknown token: [MASK]; max_tokens=3",
        'password authentication failed for user "me"',
        "sha256 0123456789abcdef",
    ],
)
def test_what_holds_no_secret_is_shown_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


def test_errors_and_logs_hold_no_secret(tmp_path: Path) -> None:
    url = "postgresql://me:PW PW@host/db?sslpassword=PW"
    error = KaruiError(f"a {url}", where=url, expected=url, got=url, remedy=url)
    failure = CandidateFailure("export", f"OSError: {url}")
    SearchLog(tmp_path / "log").write("search ended", reason=url, details={"inner": [url, 3]})
    (event,) = read_log(tmp_path / "log")
    for text in (str(error), repr(error), error.where, *dict(error.details()).values(), str(failure), failure.reason):
        assert "PW" not in str(text)
    assert "PW" not in json.dumps(event)
    assert event["details"] == {"inner": ["postgresql://me:***@host/db?sslpassword=***", 3]}


@pytest.mark.parametrize("part", ["://a:", "a@", "?a", "pass=", "\"pwd='", "token", "https://", "bearer ", "@://a:b"])
def test_a_megabyte_takes_no_time(part: str) -> None:
    began = time.process_time()
    without_secrets(part * (1_000_000 // len(part)) + "@")
    assert time.process_time() - began < 5.0
