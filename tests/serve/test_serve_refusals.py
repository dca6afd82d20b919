"""What is refused, with which status and which words; nothing of it disturbs the server."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from serving import BlockedRunner, picture, post, problem, running

from camlucida.serve.explain_request import KnownClasses, parse_request
from camlucida.serve.problems import ProblemError

PNG = base64.b64encode(picture()).decode()

FORMS = {
    "count too large": ({"classes": "74"}, 422, "classes: expected a count from 1 to 73, got 74"),
    "count 0": ({"classes": "0"}, 422, "classes: expected a count from 1 to 73, got 0"),
    "unknown name": ({"classes": "catt"}, 422, "the model has no class 'catt' among its 73; did you mean 'cat'"),
    "empty name": ({"classes": "cat,,"}, 422, "the model has no class ''"),
    "no number": ({"threshold": "high"}, 422, "threshold: expected a number, got 'high'"),
    "not finite": ({"threshold": "nan"}, 422, r"threshold: expected a share of the maximum in \[0, 1\], got nan"),
    "above one": ({"threshold": "1.5"}, 422, "got 1.5"),
    "encoding": ({"maps": "jpeg"}, 422, "maps: expected one of float16, png, none, got 'jpeg'"),
    "unknown field": ({"url": "http://x"}, 422, "url: there is no such field; there are image, classes, maps"),
    "twice": ({"maps": ["png", "png"]}, 422, "maps: given 2 times; give it once"),
}

PICTURES = {
    "empty": (b"", 422, "image: it is empty"),
    "no picture": (b"hello", 422, "image: not a picture in a known format"),
    "damaged": (picture()[:300], 422, "image: damaged"),
    "a path": (b"/etc/hostname", 422, "image: not a picture"),
    "a URL": (b"http://127.0.0.1/a.jpg", 422, "image: not a picture"),
    "too many pixels": (
        picture(size_hw=(1001, 1000), kind="JPEG"),
        413,
        "image: 1000×1001 pixels, more than the limit of 1000000",
    ),
}

DOCUMENTS = {
    "no JSON": (b"{", 400, "the body is not JSON"),
    "deep": (b"[" * 100_000, 400, "the body is not JSON"),
    "a list": (b"[]", 422, "expected a JSON object with the picture under 'image'"),
    "no picture": (b"{}", 422, "image: expected a picture's file in base64"),
    "no base64": (b'{"image": "?"}', 422, "image: not base64"),
    "unknown": ({"image": PNG, "urls": 1}, 422, "urls: there is no such field"),
    "count as text": ({"image": PNG, "classes": "5"}, 422, "classes: expected a count, 'all', or a list"),
    "truth": ({"image": PNG, "classes": True}, 422, "classes: expected a count"),
    "no classes": ({"image": PNG, "classes": []}, 422, "classes: expected 1 to 73 of them, got 0"),
    "too many": ({"image": PNG, "classes": ["cat"] * 74}, 422, "classes: expected 1 to 73 of them, got 74"),
    "id": ({"image": PNG, "classes": [73]}, 422, "classes: there is no class 73; they are 0 to 72"),
    "list in list": ({"image": PNG, "classes": [["cat"]]}, 422, "classes: expected names or ids"),
    "threshold as text": ({"image": PNG, "threshold": "0.2"}, 422, "threshold: expected a number"),
    "maps as a list": ({"image": PNG, "maps": ["png"]}, 422, "maps: expected one of"),
    "huge number": (b'{"image": "AAAA", "threshold": 1e999}', 422, "got inf"),
    "huge whole number": (b'{"image": "AAAA", "threshold": 1' + b"0" * 400 + b"}", 422, "got 1000"),
    "endless number": (b'{"image": "AAAA", "threshold": 1' + b"0" * 9000 + b"}", 400, "the body is not JSON"),
    "fraction": ({"image": PNG, "classes": 1.5}, 422, "classes: expected a count"),
    "surrogates": (b'{"image": "AAAA", "\\ud800": 1}', 422, "there is no such field"),
}


@pytest.mark.parametrize(("fields", "status", "words"), FORMS.values(), ids=FORMS)
def test_forms(client, fields, status, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(problem(post(client, **fields), status))


@pytest.mark.parametrize(("image", "status", "words"), PICTURES.values(), ids=PICTURES)
def test_pictures(client, image, status, words):
    assert words in problem(post(client, image), status)


@pytest.mark.parametrize(("body", "status", "words"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents(client, body, status, words):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = client.post("/v1/explain", content=content, headers={"Content-Type": "application/json"})
    assert words in problem(said, status)


HEADERS = {
    "none": ({}, 415, "no Content-Type was given"),
    "other": ({"Content-Type": "image/png"}, 415, "expected multipart/form-data or application/json; got 'image/png'"),
    "compressed": ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415, "'gzip' is not taken"),
    "no boundary": ({"Content-Type": "multipart/form-data"}, 400, "boundary is missing"),
    "wrong boundary": ({"Content-Type": "multipart/form-data; boundary=y"}, 400, "cannot be read"),
}


@pytest.mark.parametrize(("headers", "status", "words"), HEADERS.values(), ids=HEADERS)
def test_headers(client, headers, status, words):
    assert words in problem(client.post("/v1/explain", content=b"--x\r\n\r\n", headers=headers), status)


BROKEN = {
    "cut short": (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc', "before its closing boundary"),
    "no name": (b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n", "a part of the form has no name"),
    "no disposition": (b"--x\r\n\r\nabc\r\n--x--\r\n", "a part of the form has no name"),
    "many parts": (b'--x\r\nContent-Disposition: form-data; name="maps"\r\n\r\n\r\n' * 1101 + b"--x--", "more than"),
    "bad header": (b"--x\r\n\0\r\n\r\nabc\r\n--x--\r\n", "cannot be read"),
}


@pytest.mark.parametrize(("body", "words"), BROKEN.values(), ids=BROKEN)
def test_broken_forms(body, words):
    with pytest.raises(ProblemError, match=words) as caught:
        parse_request(body, "x", KnownClasses(2, None))
    assert caught.value.status == 400


def test_text_that_is_none(client):
    said = client.post("/v1/explain", files={"image": picture(), "maps": b"\xff"})
    assert problem(said, 422) == "a field of the form is not UTF-8 text"
    assert "image: it is missing" in problem(client.post("/v1/explain", files={"maps": b"png"}), 422)


def test_names_with_commas():
    names = KnownClasses(3, ("tench, Tinca tinca", "goldfish", "all, sorts"))

    def asked(text):
        form = f'--x\r\nContent-Disposition: form-data; name="classes"\r\n\r\n{text}\r\n'
        image = '--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nA\r\n--x--\r\n'
        return parse_request((form + image).encode(), "x", names).classes

    assert asked("tench, Tinca tinca") == (0,)
    assert asked("goldfish,tench") == (1, 0)
    assert asked("all") == "all"
    assert asked("2") == 2


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/absent", 404, "there is nothing at /absent"),
        ("GET", "/../../etc/passwd", 404, "there is nothing at"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "there is nothing at"),
        ("GET", "/__init__.py", 404, "there is nothing at"),
        ("GET", "/v1/explain", 405, "GET is not for /v1/explain"),
        ("DELETE", "/healthz", 405, "DELETE is not for /healthz"),
        ("POST", "/", 405, "POST is not for /"),
    ],
)
def test_paths(client, method, path, status, words):
    said = client.request(method, path)
    assert words in problem(said, status)
    assert (status == 405) == ("allow" in said.headers)


def test_body_limit(client):
    assert "larger than the limit of 300000 bytes" in problem(post(client, b"x" * 300_001), 413)

    def chunks():
        for _ in range(8):
            yield b"x" * 50_000

    said = client.post("/v1/explain", content=chunks(), headers={"Content-Type": "application/json"})
    assert "larger than the limit" in problem(said, 413)
    assert post(client).status_code == 200


def test_security_headers(client):
    for said in (client.get("/"), client.get("/healthz"), client.get("/absent"), post(client), post(client, b"")):
        policy = said.headers["content-security-policy"]
        assert "script-src 'self' 'wasm-unsafe-eval';" in policy
        assert "default-src 'none'" in policy
        assert said.headers["x-content-type-options"] == "nosniff"
        assert said.headers["referrer-policy"] == "no-referrer"
        assert "server" not in said.headers


def test_page(client):
    assert client.get("/config.json").json()["engine"] == "server"
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" in page.text
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/sample.jpg").content[:3] == b"\xff\xd8\xff"
    assert client.head("/style.css").status_code == 200


def test_token():
    held = BlockedRunner()
    held.open.set()
    with running(held.model(), token="s3cret") as server, server.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/").status_code == 200
        for said in (client.get("/v1/models"), client.get("/metrics"), client.get("/openapi.json"), post(client)):
            assert "send Authorization: Bearer TOKEN" in problem(said, 401)
            assert said.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret", "Bearer \xff"):
            assert client.get("/v1/models", headers=[(b"authorization", wrong.encode("latin-1"))]).status_code == 401
        with server.client(headers={"Authorization": "bearer s3cret"}) as known:
            assert known.get("/v1/models").status_code == 200
            assert post(known, classes="1").json()["classes"][0]["name"] == "cat"
            described = known.get("/openapi.json").json()
        assert described["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
        assert "401" in described["paths"]["/v1/explain"]["post"]["responses"]


def test_metrics(client):
    post(client)
    post(client, b"")
    client.get("/absent/1")
    text = client.get("/metrics").text
    assert 'camlucida_requests_total{path="/v1/explain",status="200"}' in text
    assert 'camlucida_requests_total{path="/v1/explain",status="422"}' in text
    assert 'path="other",status="404"' in text
    assert "absent" not in text  # what clients make up is no label
    assert "camlucida_batch_pictures_bucket" in text
    assert "camlucida_under_way 0.0" in text


def test_model_that_fails(caplog):
    """The server's own failures tell nothing of its inside."""
    held = BlockedRunner()
    held.open.set()
    held.failure = RuntimeError("secret of the inside")
    with running(held.model()) as server, server.client() as client:
        assert problem(post(client), 500) == "the server failed on this request; its log says why"
        assert "secret of the inside" in caplog.text
        held.failure, held.value = None, float("nan")
        assert "not finite" in problem(post(client), 500)
        held.value = 1.0
        assert post(client).status_code == 200 or httpx
        assert post(client, classes="all").json()["classes"][0]["logit"] == 4.0
