"""Origins and hosts given on the command line."""

import pytest

from reconciler.api.origins import Access, host_of, origin_of


@pytest.mark.parametrize(
    ("written", "origin"),
    [
        ("https://chat.example", "https://chat.example"),
        ("HTTPS://Chat.Example:443", "https://chat.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("tauri://localhost", "tauri://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("*", "*"),
    ],
)
def test_an_origin_is_normalized_to_the_form_that_browsers_send(written: str, origin: str) -> None:
    assert origin_of(written) == origin


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("http://localhost:3000/", "write http://localhost:3000"),
        ("https://chat.example/app?x=1", "write https://chat.example"),
        ("localhost:3000", "write scheme, host and port"),
        ("chat.example", "write scheme, host and port"),
        ("https://*.example", "origins are exact"),
        ("https://me@chat.example", "not an origin"),
        ("https://chat.example:port", "not an origin"),
        ("https://", "not an origin"),
        ("http://[::1", "not an origin"),
        ("https://bücher.example", "not an origin"),
        ("null", "sandboxed"),
        ("", "not an origin"),
    ],
)
def test_the_error_for_an_invalid_origin_shows_a_valid_one(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        origin_of(written)


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("host.docker.internal", "host.docker.internal"),
        ("Mac.Local", "mac.local"),
        ("*.local", ".local"),
        (".internal", ".internal"),
        ("*.corp.example", ".corp.example"),
        ("172.17.0.1", "172.17.0.1"),
        ("[fd00::1]", "fd00::1"),
        ("studio", "studio"),
    ],
)
def test_a_host_is_a_name_or_a_pattern_of_subdomains(written: str, host: str) -> None:
    assert host_of(written) == host


@pytest.mark.parametrize(
    "written",
    [
        "*",
        "*.com",
        ".dev",
        "http://a.example",
        "a.example:1234",
        "a b",
        "",
        "*.",
        "a..b",
        "*.1.2.3.4",
    ],
)
def test_invalid_and_too_broad_hosts_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        host_of(written)


def test_a_pattern_matches_subdomains_only() -> None:
    access = Access("127.0.0.1", hosts=(".local", "studio.internal"))
    served = ["localhost", "127.0.0.1", "::1", "127.8.9.1", "mac.local", "a.b.local"]
    assert all(access.serves(name) for name in [*served, "studio.internal"])
    others = ["local", "evillocal", "mac.local.evil.example", "other.internal", "", "0.0.0.0"]
    assert not any(access.serves(name) for name in others)
