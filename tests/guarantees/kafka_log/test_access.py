"""A worker that isn't let in, or not let do what it needs: it soon ends, with one line that says what to check."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from streams.connectors.kafka.log import KafkaLog
from streams.core.log import TopicSpec
from tests.brokers.kafka.secured import USERS, SecuredKafka, token
from tests.brokers.ports import free_port
from tests.guarantees.kafka_log.program import SETTINGS, finish, running

PATIENCE_S = 120.0
"""On a machine at rest it is one or two."""
BOB = f"user=bob&mechanism=PLAIN&password={quote(USERS['bob'], safe='')}"


def refusal(url: str, directory: Path, name: str = "counts") -> str:
    with running(f"{url}&{SETTINGS}", directory, "--until-idle", APP=name) as program:
        line = program.refusal(PATIENCE_S)
        assert not [word for word in USERS.values() if word in program.said], "a secret was shown"
    return line


def test_nobody_listens(tmp_path: Path) -> None:
    line = refusal(f"kafka://127.0.0.1:{free_port()}?linger_ms=1", tmp_path)
    assert "refuses connections; check that it runs and listens on this port" in line


def test_nobody_knows_the_host(tmp_path: Path) -> None:
    assert "isn't known by this name" in refusal("kafka://no-such-host.invalid:9092?linger_ms=1", tmp_path)


@pytest.mark.parametrize(
    ("listener", "query", "said"),
    [
        ("SASL_PLAINTEXT", "security=sasl&mechanism=SCRAM-SHA-256&user=bob&password=wrong", "check user, password and"),
        ("SASL_PLAINTEXT", "linger_ms=1", "use security=sasl"),
        ("SASL_SSL", f"security=sasl_tls&{BOB}", "authority that isn't trusted here; name the authority's by ca_file"),
        ("SASL_PLAINTEXT", "security=sasl&mechanism=OAUTHBEARER&token={expired}", "refuses the token"),
    ],
)
def test_who_is_not_let_in_is_told_why(
    kafka_secured: SecuredKafka, tmp_path: Path, listener: str, query: str, said: str
) -> None:
    query = query.format(expired=token("bob", lifetime_s=-60))
    assert said in refusal(f"kafka://{kafka_secured.address(listener)}?{query}", tmp_path)  # type: ignore[arg-type]


def test_each_permission_that_is_missing_is_named_and_with_all_of_them_it_works(
    kafka_secured: SecuredKafka, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    """An app's permissions, given one after the other: what it says each time leads to the next one."""
    app = f"app{unique('x')[-8:]}"
    url = f"kafka://{kafka_secured.bootstrap}?security=sasl&{BOB}"

    async def create() -> None:
        admin = quote(USERS["admin"], safe="")
        log = KafkaLog(f"kafka://{kafka_secured.bootstrap}?security=sasl&mechanism=PLAIN&user=admin&password={admin}")
        await log.open()
        await log.create_topics([TopicSpec(f"{app}.lines")])
        await log.close()

    asyncio.run(create())
    steps = [
        ("ACL for the topic", ("topic", app)),
        ("ACL for transactional ids that begin with the app's name", ("transactional_id", app)),
        ("ACL for the group, which has the app's name", ("group", app)),
    ]
    for _ in range(len(steps)):
        line = refusal(url, tmp_path, app)
        assert "not allowed" in line, line
        ((words, (resource, name)),) = [step for step in steps if step[0] in line]
        steps.remove((words, (resource, name)))
        kafka_secured.grant("bob", resource, name, prefix=True)  # type: ignore[arg-type]
    finish(f"{url}&{SETTINGS}", tmp_path, APP=app)
