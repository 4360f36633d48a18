"""Thousands of damaged manifests against a running daemon."""

import random

import pytest
from click.testing import CliRunner

from reconciler.cli import main
from tests.support import Daemon, Home

COUNT = 10_000
BATCH = 500

MANIFESTS = (
    """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata:
  name: NAME
  labels: {team: search, x: "1"}
spec:
  model: tiny/llama
  suspend: true
  config: {context_length: 64, flash_attention: true}
  defaults: &d
    temperature: 0.5
    chat_template_kwargs: {a: [1, 2.5, null, {b: c}]}
  priority: 0x10
  node_selector: [{key: role, operator: NotIn, values: [prod, "test"]}]
""",
    """\
{"apiVersion": "reconciler/v1", "kind": "ModelInstance", "metadata": {"name": "NAME"},
 "spec": {"model": "tiny/llama", "suspend": true, "idle_ttl_seconds": 60, "download": "never",
 "adapter": "a/b", "revision": "main", "node_selector": {"role": "test"}}}
""",
)

PIECES = (
    *(b"---\n", b"...\n", b"&a ", b"*a", b"!!python/object:os.system ", b"<<: *d\n", b"? ", b"- "),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\r"),
    *(b"\\ud800", b'"\\0"', b".nan", b"-.inf", b"1e999", b"0x" + b"f" * 5000, b"9" * 500, b"~"),
    *(b"[" * 3000, b"{a: " * 100, b"[" * 49, b'"' + b"k" * 5000 + b'": 1\n', b"|\n", b">9\n"),
    *(b"reconciler/v2", b"v1", b"../../..", b"\xe2\x80\xae", b"\x1b[2J", b"null", b"true"),
)


def mutated(random_: random.Random, name: str) -> bytes:
    """A manifest with one to four mutations."""
    data = random_.choice(MANIFESTS).replace("NAME", name).encode()
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(data) + 1)
        end = min(len(data), at + random_.choice((0, 1, 3, 20, 200)))
        lines = data.split(b"\n")
        data = random_.choice(
            (
                data[:at] + random_.choice(PIECES) + data[end:],
                data[:at] + data[end:],
                data[:at] + data[at:end] * random_.choice((2, 50)) + data[end:],
                data[:at] + bytes([random_.randrange(256)]) + data[at + 1 :],
                b"\n".join(random_.sample(lines, len(lines))),
                data[:at],
            )
        )
    return data


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_10_000_mutated_manifests_harm_no_others(home: Home) -> None:
    """The daemon stays healthy, follows valid manifests and reports the errors of `validate`."""
    random_ = random.Random(17)
    with Daemon(home) as daemon:
        home.write("good.yaml", name="good", model="tiny/llama", context_length=64)
        before = daemon.ready("good")
        for first in range(0, COUNT, BATCH):
            for n in range(first, first + BATCH):
                (home.manifests / f"{n % 2000}.yaml").write_bytes(mutated(random_, f"m{n}"))
            mark = home.manifests / "mark.yaml"
            mark.write_text(f"{{apiVersion: v1, kind: Mark{first}}}\n{'#' * first}", "utf-8")
            _, answer = daemon.request("POST", f"/api/v1/sources/{_source(home)}/sync")
            assert answer["readable"], answer
            assert daemon.get("/health")["status"] == "ok"
            home.write("good.yaml", name="good", model="tiny/llama", context_length=65 + first)
            after = daemon.ready("good", before["generation"] + 1)
            before = after
        (source,) = daemon.get("/api/v1/sources")["sources"]
        errors = {
            f"{home.manifests}/{f['path']}:{e['line']}:{e['column']}: {e['message']}"
            for f in source["files"]
            for e in f["errors"]
        }
        assert len(errors) > 1000
        checked = CliRunner().invoke(main, ["validate", str(home.manifests)])
        assert checked.exit_code == 1
        assert errors == {line for line in checked.output.splitlines() if _is_error(line)}
        assert "failed unexpectedly" not in daemon.log()
        assert "Traceback" not in daemon.log()


def _source(home: Home) -> str:
    return f"directory:{home.manifests}".replace("/", "%2F")


def _is_error(line: str) -> bool:
    return not (": ignored, " in line or "declared more than once" in line)
