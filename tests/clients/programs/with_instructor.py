"""instructor: structured output in four modes."""

import json
import os

import instructor
import openai
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


found = {}
for name in ("TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON"):
    client = instructor.from_openai(
        openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0),
        mode=instructor.Mode[name],
    )
    city = client.chat.completions.create(
        model=os.environ["MODEL"],
        response_model=City,
        max_retries=0,
        messages=[{"role": "user", "content": "Describe the city."}],
    )
    found[name] = city.model_dump()
print(json.dumps(found))
