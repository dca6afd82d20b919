"""The OpenAPI document, and Schemathesis on it."""

from __future__ import annotations

import base64
import warnings

import pytest
from serving import picture

PICTURES = [picture(i, kind=kind) for i, kind in enumerate(("PNG", "JPEG", "GIF"))]


def test_describes_everything(client):
    said = client.get("/openapi.json").json()
    explain = said["paths"]["/v1/explain"]["post"]
    assert set(explain["responses"]) == {"200", "400", "408", "413", "415", "422", "429", "500", "503", "504"}
    assert explain["responses"]["200"]["content"]["application/json"]["example"]["model"] == "demo"
    for code, one in explain["responses"].items():
        assert one["description"]
        kinds = {"application/json"} if code == "200" else {"application/problem+json"}
        assert set(one["content"]) == kinds
    body = explain["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/json"}
    for one in body.values():
        assert set(one["schema"]["properties"]) == {"image", "classes", "maps", "threshold"}


def test_schemathesis(demo):
    """Requests made from the document: every answer is one that it describes; what it forbids is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tool's own making
        schemathesis = pytest.importorskip("schemathesis")
        from hypothesis import HealthCheck, Phase, assume, given, settings, strategies
        from schemathesis import openapi

        # Only a picture is a valid picture, which no schema can say.
        schemathesis.openapi.format("byte", strategies.sampled_from([base64.b64encode(p).decode() for p in PICTURES]))
        schemathesis.openapi.format("binary", strategies.sampled_from(PICTURES))
        schema = openapi.from_url(f"{demo.url}/openapi.json")

        from schemathesis.generation import GenerationMode

        for result in schema.get_all_operations():
            operation = result.ok()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if mode is GenerationMode.NEGATIVE and operation.method.upper() != "POST":
                    continue  # there is nothing to send that could be wrong
                strategy = operation.as_strategy(generation_mode=mode)

                @given(case=strategy)
                @settings(
                    max_examples=25,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                def conforms(case):
                    fields = case.body if isinstance(case.body, dict) else {}
                    assume([] not in fields.values())  # an empty list leaves no field in a form: nothing is wrong then
                    case.call_and_validate()

                conforms()
