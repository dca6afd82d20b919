"""The API's description: ``openapi.json``, written by hand; what depends on model and settings is filled in here."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from camlucida import __version__
from camlucida.serve.explain_request import KnownClasses
from camlucida.serve.problems import MEDIA_TYPE


def openapi_document(known: KnownClasses, *, secured: bool) -> dict[str, Any]:
    """The whole OpenAPI document, for a model's classes, ``secured`` where requests must carry a token.

    Example:
        >>> openapi_document(KnownClasses(2, ("cat", "dog")), secured=False)["components"]["schemas"]["ClassName"]
        {'type': 'string', 'enum': ['cat', 'dog']}
    """
    document: dict[str, Any] = json.loads(resources.files(__package__).joinpath("openapi.json").read_bytes())
    document["info"]["version"] = __version__
    schemas = document["components"]["schemas"]
    schemas["ClassCount"]["maximum"] = schemas["ClassList"]["maxItems"] = known.count
    schemas["ClassName"]["enum"] = list(dict.fromkeys(known.all_names()))
    schemas["ClassId"]["maximum"] = known.count - 1
    for body in document["paths"]["/v1/explain"]["post"]["requestBody"]["content"].values():
        body["schema"]["properties"]["classes"]["default"] = known.default_count
        if "example" in body:
            body["example"]["classes"] = known.default_count
    if secured:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if secured:
                operation["security"] = [] if path == "/healthz" else [{"token": []}]
            if secured and path != "/healthz":
                operation["responses"]["401"] = {"description": "The token is missing or wrong."}
            for status, response in operation["responses"].items():
                if status >= "400":
                    example = {"type": "about:blank", "title": "…", "status": int(status),
                               "detail": response["description"]}  # fmt: skip
                    schema = {"$ref": "#/components/schemas/ProblemDetails"}
                    response["content"] = {MEDIA_TYPE: {"schema": schema, "example": example}}
    return document
