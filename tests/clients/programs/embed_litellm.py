"""litellm: vectors of texts."""

import json
import os

import litellm

more = {
    "model": "openai/" + os.environ["MODEL"],
    "api_base": os.environ["URL"] + "/v1",
    "api_key": "none",
    "max_retries": 0,
}
both = litellm.embedding(input=["a record", "x"], **more).data
(one,) = litellm.embedding(input="a record", encoding_format="float", **more).data
print(json.dumps([row["embedding"] for row in [*both, one]]))
