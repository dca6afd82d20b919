"""Settings, the command, and the process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from serving import picture
from typer.testing import CliRunner

from camlucida.errors import ServeError
from camlucida.export.exporting import ExportOptions, export
from camlucida.serve import listening as run
from camlucida.serve.app import create_app
from camlucida.serve.settings import ServerSettings
from onnx_files import plain_demo

WRONG = {
    "batch": ({"batch": 0}, "batch: expected at least 1, got 0"),
    "queue": ({"queue": 0}, "queue: expected at least 1, got 0"),
    "threads": ({"threads": 0}, "threads: expected at least 1, got 0"),
    "port": ({"port": 65536}, "port: expected 0 to 65535, got 65536"),
    "held": ({"max_held": 5}, "max_held: expected at least 20971520, got 5"),
    "timeout": ({"timeout": 0}, "timeout: expected seconds above 0, got 0"),
    "endless": ({"timeout": float("nan")}, "timeout: expected seconds above 0, got nan"),
    "wait": ({"wait": -1}, "wait: expected seconds, 0 or more, got -1"),
    "token": ({"token": "a b"}, "token: expected printable ASCII characters without spaces"),
    "empty token": ({"token": ""}, "token: it is empty"),
}


@pytest.mark.parametrize(("fields", "words"), WRONG.values(), ids=WRONG)
def test_settings(fields, words):
    with pytest.raises(ServeError, match=words):
        ServerSettings(**fields)


def test_token_is_not_shown():
    assert "s3cret" not in repr(ServerSettings(token="s3cret"))


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("example.org", False)]
)
def test_loopback(host, loopback):
    assert ServerSettings(host=host).loopback is loopback


def test_a_file_of_the_likeliest_classes_alone_is_refused(tmp_path):
    pytest.importorskip("onnx")
    export(plain_demo(tmp_path / "plain.onnx"), tmp_path / "top.onnx", ExportOptions(top=3))
    with pytest.raises(ServeError, match=r"top.onnx: has the maps of the likeliest 3 classes alone, .* without --top"):
        create_app(tmp_path / "top.onnx")


def test_port_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=rf"127.0.0.1:{port}: cannot listen there \(Address already in use\)"):
            run.listen(ServerSettings(port=port))


def test_no_such_host():
    with pytest.raises(ServeError, match="cannot listen there"):
        run.listen(ServerSettings(host="host.invalid"))


@pytest.mark.parametrize(("arguments", "warned"), [([], False), (["--host", "0.0.0.0"], True),
                                                   (["--host", "0.0.0.0", "--token", "t"], False)])  # fmt: skip
def test_warning(monkeypatch, arguments, warned):
    import typer

    from camlucida.cli.serve import serve

    seen = []
    monkeypatch.setattr(run, "serve", lambda app, ready: seen.append(app.state.settings))
    command = typer.Typer()
    command.command()(serve)
    result = CliRunner().invoke(command, [*arguments, "--max-body", "3", "--max-pixels", "2", "--batch", "4"])
    assert result.exit_code == 0, result.output
    assert ("anyone who reaches 0.0.0.0 can use this server" in result.stderr) == warned
    assert (seen[0].max_body, seen[0].max_pixels, seen[0].batch) == (3 * 2**20, 2_000_000, 4)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_process(sent):
    """It tells its address, answers, and ends with exit code 0 on a signal."""
    program = (
        "import typer, sys; from camlucida.cli.serve import serve; app = typer.Typer(); app.command()(serve); "
        "app(['--port', '0'], standalone_mode=False)"
    )
    environment = os.environ | {"CAMLUCIDA_TOKEN": "from-the-environment"}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        try:
            said = process.stdout.readline()
            name, _, address = said.strip().partition(" at ")
            assert name == "demo"
            files = {"image": picture()}
            assert httpx.post(f"{address}/v1/explain", files=files, timeout=20).status_code == 401
            known = {"Authorization": "Bearer from-the-environment"}
            assert httpx.post(f"{address}/v1/explain", files=files, headers=known, timeout=20).status_code == 200
            process.send_signal(sent)
            assert process.wait(20) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_serve_from_python():
    """The application alone says where and within which limits."""
    program = (
        "from camlucida.serve.app import create_app; from camlucida.serve.listening import serve; "
        "from camlucida.serve.settings import ServerSettings; "
        "serve(create_app(settings=ServerSettings(port=0, max_body=2000)), lambda address: print(address, flush=True))"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            answer = httpx.post(f"{address}/v1/explain", files={"image": bytes(3000)}, timeout=20)
            assert answer.json()["detail"].startswith("the body is larger than the limit of 2000 bytes")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
